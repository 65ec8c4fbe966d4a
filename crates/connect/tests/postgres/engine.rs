//! PostgreSQL, as the tests of its connector see it.

use portolan_connect::source::postgres;
use portolan_model::ErrorKind;
use portolan_model::source::Connector;
use portolan_testkit::servers::PostgresOptions;

use crate::harness::Protocol;
use crate::relational::{Dialect, Inexact, Limit, ONE, Refusals, collector};

pub(crate) use portolan_testkit::servers::Postgres as Server;

pub(crate) struct Engine;

impl Protocol for Engine {
    const CONNECTOR: &'static dyn Connector = &postgres::Postgres;

    fn defaults() -> Vec<(&'static str, String)> {
        collector()
    }
}

/// A server with further settings.
pub(crate) fn with_settings(settings: &[&str]) -> Server {
    let settings = settings.iter().map(ToString::to_string).collect();
    Server::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).unwrap()
}

impl Dialect for Engine {
    const BOOLEAN: &'static str = "boolean";
    const TWENTY_DIGITS: &'static str = "numeric(20)";
    const DATE_TIME: &'static str = "timestamp";
    const INSTANT: &'static str = "timestamptz";
    const JSON: &'static str = "jsonb";
    const LONG_TEXT: &'static str = "text";
    const EARLIEST: &'static str = "0001-01-01";
    const SLEEP: &'static str = "pg_sleep";

    fn series(first: i64, last: i64) -> String {
        format!("generate_series({first}, {last}) AS seq")
    }

    fn quoted(name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    fn retyped_id(sql_type: &str) -> String {
        format!("ALTER id TYPE {sql_type}")
    }

    fn running(marker: &str) -> String {
        format!(
            "SELECT pid FROM pg_stat_activity \
             WHERE usename = 'collector' AND state = 'active' AND query LIKE '%{marker}%'"
        )
    }

    fn ending(session: &str) -> String {
        format!("SELECT pg_terminate_backend({session})")
    }

    fn limited(limit: Limit) -> Server {
        match limit {
            Limit::Tls12 => with_settings(&["ssl_max_protocol_version=TLSv1.2"]),
            Limit::NoTls => with_settings(&["ssl=off"]),
            Limit::Sessions(sessions) => {
                let reserved = 2;
                with_settings(&[
                    &format!("max_connections={}", sessions + reserved),
                    &format!("superuser_reserved_connections={reserved}"),
                ])
            }
        }
    }

    const CURSOR_OF_ID: &'static str = "id";
    const CURSORS: &'static [(&'static str, [&'static str; 3])] = &[
        ("smallint", ["-32768", "0", "32767"]),
        ("int", ["-2147483648", "5", "2147483647"]),
        ("bigint", ["-9223372036854775808", "9007199254740993", "9007199254740994"]),
        ("oid", ["0", "5", "4294967295"]),
        // Neighbours that are the same double.
        ("numeric(38,30)", ["-1", "0.100000000000000000000000000001", "0.100000000000000000000000000002"]),
        ("numeric", ["-1e-60", "0", "1e60"]),
        (
            "numeric(50,10)",
            ["-1", "12345678901234567890123456789012345678.5", "12345678901234567890123456789012345679"],
        ),
        ("double precision", ["-0.1", "0.1", "0.30000000000000004"]),
        ("real", ["-0.1", "0.1", "3.4e38"]),
        ("date", ["'0001-01-01'", "'2024-02-29'", "'9999-12-31'"]),
        ("timestamp", ["'0001-01-01 00:00:00'", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"]),
        ("timestamptz", ["'1970-01-01 00:00:01+01'", "'2024-01-01 00:00:00.000001Z'", "'2024-01-01 00:00:00.000002Z'"]),
        ("time", ["'00:00:00'", "'00:00:00.000001'", "'23:59:59'"]),
        ("varchar(40)", ["'a'", "'É'", "'😀'"]),
        ("text collate \"C\"", ["'A''\\x'", "'a\"'", "'ä'"]),
        ("char(4)", ["'a'", "'b'", "'c'"]),
        ("bytea", ["''", "'\\x00'", "'\\xff00'"]),
        (
            "uuid",
            [
                "'00000000-0000-0000-0000-000000000001'",
                "'123e4567-e89b-12d3-a456-426655440000'",
                "'ffffffff-e89b-12d3-a456-426655440000'",
            ],
        ),
    ];
    // A window may begin at the smallest value there is.
    const READS_START_OF_WINDOW: bool = true;
    const WIDE_WINDOWS: &'static [(&'static str, &'static str, &'static str, usize)] = &[
        // Below the smallest number, and one of a number with many digits.
        ("smallint", "(-32768), (3)", "40000", 2),
        ("numeric", "(-5e40), (0.5)", "9223372036854775807", 1),
    ];
    const LEARNS_TYPES_LATE: bool = false;
    const OWN_MISTAKE: (&'static str, &'static str) = ("query = \"select 1\"\nschema = \"s\"", "`schema` does nothing");
    const OPTIONS: usize = 10;
    const SERVER_NAME: &'static str = "PostgreSQL 1";
    const TLS_VERSIONS: [&'static str; 2] = ["TLSv1.2", "TLSv1.3"];
    const CERTIFIED: (&'static str, ErrorKind, &'static str) =
        ("user = \"certified\"", ErrorKind::Permission, "certificate");

    fn inexact(table: &str) -> Inexact {
        Inexact {
            setup: format!(
                "CREATE TYPE {table}_word AS ENUM ('b', 'a'); CREATE TABLE {table}_serial (id serial); \
                 CREATE TABLE {table} (id bigint primary key, n bigint unique, e {table}_word not null unique, \
                 d double precision not null unique, p varchar(20) not null, x timestamp not null unique, \
                 f double precision not null unique, unique (p, d)); \
                 CREATE UNIQUE INDEX ON {table} (lower(p)); CREATE UNIQUE INDEX ON {table} (p) WHERE id > 0; \
                 INSERT INTO {table} VALUES (1, 1, 'a', 1, 'x', 'infinity', 'NaN'), (2, null, 'b', 2, 'y', 'today', 1)"
            ),
            options: vec![
                ("cursor = \"e\"", ErrorKind::Configuration, "enum"),
                ("cursor = \"x\"", ErrorKind::Data, "infinity"),
                ("cursor = \"f\"", ErrorKind::Data, "NaN"),
            ],
            queries: [
                (format!("select id from {table} where id = $1"), ErrorKind::Configuration),
                (format!("delete from {table}"), ErrorKind::Configuration),
                (format!("delete from {table} returning id"), ErrorKind::Configuration),
                (
                    format!("with gone as (delete from {table} returning id) select id from gone"),
                    ErrorKind::Configuration,
                ),
                (
                    format!("select 1 as one) to stdout; delete from {table}; copy (select 1 as one"),
                    ErrorKind::Configuration,
                ),
                (
                    format!("select setval(pg_get_serial_sequence('{table}_serial', 'id'), 7) as v"),
                    ErrorKind::Permission,
                ),
                ("set a.b = 1".to_owned(), ErrorKind::Configuration),
                ("select 1/0 as v".to_owned(), ErrorKind::Server),
            ]
            .into(),
        }
    }

    fn refusals(name: &str) -> Refusals {
        let not_found = |options: &str, hint| (options.to_owned(), ErrorKind::NotFound, hint);
        Refusals {
            setup: format!(
                "CREATE TABLE {name} (id int); CREATE ROLE {name} LOGIN PASSWORD 'x'; \
                 CREATE TABLE {name}_open (id int); GRANT SELECT ON {name}_open TO {name}; \
                 CREATE TABLE {name}_customers (id int)"
            ),
            options: vec![
                not_found(&format!("database = \"absent\"\n{ONE}"), "psql --list"),
                not_found("table = \"absent\"", "\\dt"),
                not_found(&format!("table = \"{name}_custmers\""), "did you mean public."),
                not_found("table = \"pg_class\"", "did you mean pg_catalog.pg_class"),
                not_found("query = \"select relnam from pg_class\"", "relname"),
            ],
        }
    }
}
