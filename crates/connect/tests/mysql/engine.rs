//! MySQL, which MariaDB stands for, as the tests of its connector see it.

use portolan_connect::source::mysql::MySql;
use portolan_model::ErrorKind;
use portolan_model::source::Connector;
use portolan_testkit::servers::MariaDbOptions;

use crate::harness::Protocol;
use crate::relational::{Dialect, Inexact, Limit, ONE, Refusals, account, collector};

pub(crate) use portolan_testkit::servers::MariaDb as Server;

pub(crate) struct Engine;

impl Protocol for Engine {
    const CONNECTOR: &'static dyn Connector = &MySql;

    fn defaults() -> Vec<(&'static str, String)> {
        collector()
    }
}

/// A server with further arguments.
pub(crate) fn with_arguments(arguments: &[&str]) -> Server {
    let arguments = arguments.iter().map(ToString::to_string).collect();
    Server::start_with(MariaDbOptions { arguments }).unwrap()
}

impl Dialect for Engine {
    const MODE: &'static str = "SET NAMES utf8mb4; SET time_zone = '+00:00'; SET sql_mode = '';";
    const BOOLEAN: &'static str = "bit(1)";
    const TWENTY_DIGITS: &'static str = "bigint unsigned";
    const DATE_TIME: &'static str = "datetime";
    const INSTANT: &'static str = "timestamp(6)";
    const JSON: &'static str = "json";
    const LONG_TEXT: &'static str = "longtext";
    const EARLIEST: &'static str = "0000-00-00";
    const SLEEP: &'static str = "sleep";
    const FIRST: &'static str = "FIRST";

    fn series(first: i64, last: i64) -> String {
        format!("seq_{first}_to_{last}")
    }

    fn quoted(name: &str) -> String {
        format!("`{}`", name.replace('`', "``"))
    }

    fn retyped_id(sql_type: &str) -> String {
        format!("MODIFY id {sql_type}")
    }

    fn running(marker: &str) -> String {
        format!(
            "SELECT id FROM information_schema.PROCESSLIST \
             WHERE user = 'collector' AND info LIKE '%{marker}%' AND info NOT LIKE '%PROCESSLIST%'"
        )
    }

    fn ending(session: &str) -> String {
        format!("KILL {session}")
    }

    fn limited(limit: Limit) -> Server {
        match limit {
            Limit::Tls12 => with_arguments(&["--tls-version=TLSv1.2"]),
            Limit::NoTls => with_arguments(&["--skip-ssl"]),
            Limit::Sessions(sessions) => {
                let server = with_arguments(&[&format!("--max-connections={sessions}")]);
                // An administrator would have one more.
                let ordinary = "REVOKE ALL PRIVILEGES ON *.* FROM collector@'%'; GRANT SELECT ON *.* TO collector@'%'";
                server.sql(ordinary).unwrap();
                server
            }
        }
    }

    const CURSOR_OF_ID: &'static str = "ID";
    const CURSORS: &'static [(&'static str, [&'static str; 3])] = &[
        ("tinyint", ["-128", "0", "127"]),
        ("int unsigned", ["0", "5", "4294967295"]),
        ("bigint", ["-9223372036854775808", "9007199254740993", "9007199254740994"]),
        ("year", ["1901", "2024", "2155"]),
        // Neighbours that are the same double.
        ("decimal(65,30)", ["-1", "0.100000000000000000000000000001", "0.100000000000000000000000000002"]),
        ("decimal(20,0) unsigned", ["18446744073709551615", "18446744073709551616", "18446744073709551617"]),
        ("double", ["-0.1", "0.1", "0.30000000000000004"]),
        ("float", ["-0.1", "0.1", "3.4e38"]),
        ("date", ["'0000-00-00'", "'2024-02-29'", "'9999-12-31'"]),
        ("datetime(6)", ["'0000-00-00 00:00:00'", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"]),
        ("timestamp(6)", ["'1970-01-01 00:00:01'", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"]),
        ("time(6)", ["'-838:59:59'", "'00:00:00.000001'", "'838:59:59'"]),
        ("varchar(40)", ["'a'", "'É'", "'z😀'"]),
        ("varchar(40) character set latin1 collate latin1_german2_ci", ["'a'", "'ä'", "'z'"]),
        ("varbinary(40)", ["''", "x'00'", "x'ff00'"]),
        (
            "uuid",
            [
                "'00000000-0000-0000-0000-000000000001'",
                "'123e4567-e89b-12d3-a456-426655440000'",
                "'ffffffff-e89b-12d3-a456-426655440000'",
            ],
        ),
    ];
    const CURSORS_OPTION: &'static str = "time_as = \"microseconds\"";
    const READS_START_OF_WINDOW: bool = false;
    const WIDE_WINDOWS: &'static [(&'static str, &'static str, &'static str, usize)] =
        // Below the smallest unsigned number.
        &[("bigint unsigned", "(0), (3)", "10", 2)];
    const LEARNS_TYPES_LATE: bool = true;
    const OWN_MISTAKE: (&'static str, &'static str) = ("table = \"t\"\ntime_as = \"text\"", "text");
    const OPTIONS: usize = 12;
    const SERVER_NAME: &'static str = "MariaDB";
    const TLS_VERSIONS: [&'static str; 2] = ["TLSv1_2", "TLSv1_3"];
    const CERTIFIED: (&'static str, ErrorKind, &'static str) =
        ("user = \"certified\"\npassword = { literal = \"\" }", ErrorKind::Authentication, "certified");

    fn inexact(table: &str) -> Inexact {
        Inexact {
            setup: format!(
                "CREATE TABLE {table} (id bigint primary key, n bigint unique, e enum('b','a') not null unique, \
                 d double not null unique, p varchar(20) not null, unique key prefix (p(3)), unique key pair (p, d)); \
                 INSERT INTO {table} VALUES (1, 1, 'a', 1, 'x'), (2, null, 'b', 2, 'y')"
            ),
            options: vec![("cursor = \"e\"", ErrorKind::Configuration, "ENUM")],
            queries: vec![
                (format!("select id from {table} where id = ?"), ErrorKind::Configuration),
                (format!("delete from {table}"), ErrorKind::Permission),
                ("set @a = 1".to_owned(), ErrorKind::Configuration),
            ],
        }
    }

    fn refusals(name: &str) -> Refusals {
        Refusals {
            setup: format!(
                "CREATE TABLE {name} (id int); CREATE USER {name}@'%' IDENTIFIED BY 'x'; \
                 GRANT USAGE ON *.* TO {name}@'%'; \
                 CREATE TABLE {name}_open (id int); GRANT SELECT ON shop.{name}_open TO {name}@'%'"
            ),
            options: vec![
                (format!("database = \"absent\"\n{ONE}"), ErrorKind::NotFound, "SHOW DATABASES"),
                ("table = \"absent\"".to_owned(), ErrorKind::NotFound, "SHOW TABLES"),
                ("query = \"select absent from mysql.user\"".to_owned(), ErrorKind::NotFound, "column"),
                (format!("{}\ndatabase = \"mysql\"\n{ONE}", account(name)), ErrorKind::Permission, "GRANT SELECT"),
            ],
        }
    }
}
