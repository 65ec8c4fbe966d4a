-- One million rows of ten mixed columns, about 209 MB as text, the same on every machine. MariaDB makes them itself.
create database demo;
use demo;
create table t (
  id bigint primary key,
  ts datetime(6) not null,
  device varchar(16) not null,
  name varchar(40) not null,
  flag boolean not null,
  qty int,
  price decimal(12, 4) not null,
  val double not null,
  note varchar(80),
  payload text not null
) charset = utf8mb4;
insert into t
select
  seq,
  timestamp '2025-01-01 00:00:00' + interval (seq * 1000123) microsecond,
  concat('dev-', lpad(seq % 5000, 5, '0')),
  concat('sensor ', md5(seq)),
  seq % 3 = 0,
  if(seq % 10 = 0, null, (seq * 7919) % 100000),
  ((seq * 104729) % 99999999) / 10000,
  sin(seq) * 1000,
  if(seq % 5 = 0, null, concat('note, "q" ', left(md5(seq * 3), 20))),
  concat('{"a":', seq, ',"b":"', md5(seq * 5), '","c":[1,2,3]}')
from seq_1_to_1000000;
analyze table t;
