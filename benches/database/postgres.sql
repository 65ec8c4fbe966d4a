-- One million rows of ten mixed columns, about 209 MB as text, the same on every machine. PostgreSQL makes them itself.
create table t (
  id bigint primary key,
  ts timestamp not null,
  device varchar(16) not null,
  name varchar(40) not null,
  flag boolean not null,
  qty int,
  price numeric(12, 4) not null,
  val double precision not null,
  note varchar(80),
  payload text not null
);
insert into t
select
  i,
  timestamp '2025-01-01' + i * interval '1.000123 second',
  'dev-' || lpad((i % 5000)::text, 5, '0'),
  'sensor ' || md5(i::text),
  i % 3 = 0,
  case when i % 10 = 0 then null else (i * 7919) % 100000 end,
  round(((i * 104729) % 99999999) / 10000.0, 4),
  sin(i::float8) * 1000,
  case when i % 5 = 0 then null else 'note, "q" ' || left(md5((i * 3)::text), 20) end,
  '{"a":' || i || ',"b":"' || md5((i * 5)::text) || '","c":[1,2,3]}'
from generate_series(1::bigint, 1000000) as i;
vacuum analyze t;
