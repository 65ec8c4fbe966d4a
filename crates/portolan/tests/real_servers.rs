//! A MariaDB, a PostgreSQL, an nginx and a stateful API behind it, the program as a user runs it, and every row in the lake compared
//! with an outside ledger: by the program's own SQL and by DuckDB, which we did not write.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use portolan_testkit::api::Api;
use portolan_testkit::duckdb;
use portolan_testkit::ledger::Ledger;
use portolan_testkit::process::Signal;
use portolan_testkit::servers::{COLLECTOR_PASSWORD, MariaDb, Nginx, NginxOptions, Postgres};
use serde_json::{Value, json};
use support::{Bench, PATIENCE};

struct World {
    api: Api,
    nginx: Nginx,
    database: MariaDb,
    ledger: Ledger,
    next: u64,
}

impl World {
    fn new() -> Self {
        let api = Api::start().unwrap();
        let nginx = Nginx::start(NginxOptions { upstream_port: Some(api.port()) }).unwrap();
        let database = MariaDb::start().unwrap();
        database
            .sql("CREATE TABLE shop.orders (id BIGINT UNSIGNED PRIMARY KEY, item VARCHAR(40) NOT NULL, price DECIMAL(30,10), at DATETIME(6))")
            .unwrap();
        Self { api, nginx, database, ledger: Ledger::default(), next: 1 }
    }

    /// Writes so many rows to each port, and to the ledger.
    fn write(&mut self, count: u64) {
        let mut statements = Vec::new();
        let mut items = Vec::new();
        for id in self.next..self.next + count {
            let item = format!("it'em \u{e9}{id}");
            let price = format!("{id}{id}.{:010}", id * 7);
            statements.push(format!(
                "({id}, '{}', {price}, '2026-11-22 10:00:00.{:06}')",
                item.replace('\'', "''"),
                id
            ));
            self.ledger.wrote("orders", id, json!({"id": id, "item": item, "price": price}));
            let row = json!({"id": id, "machine": format!("m{}", id % 5), "load": id as f64 / 8.0, "note": null});
            self.ledger.wrote(
                "events",
                id,
                json!({"id": id, "machine": format!("m{}", id % 5), "load": id as f64 / 8.0}),
            );
            items.push(row);
        }
        // The client takes its statement as an argument, whose length is bounded.
        for chunk in statements.chunks(500) {
            self.database.sql(&format!("INSERT INTO shop.orders VALUES {}", chunk.join(","))).unwrap();
        }
        self.api.append("events", items);
        self.next += count;
    }

    fn configuration(&self) -> String {
        let ca = self.database.tls().authority.display();
        format!(
            r#"
[server]
host = "127.0.0.1"

[[source]]
name = "events"
port = {nginx}
protocol = "http"
path = "/api/link/events?limit=50"
pagination = {{ by = "link" }}
cursor = {{ parameter = "since", column = "id" }}
tls = {{ allow_plaintext = "test on loopback" }}

[[source]]
name = "static"
port = {nginx}
protocol = "http"
path = "/ok.json"
tls = {{ allow_plaintext = "test on loopback" }}

[[source]]
name = "orders"
port = {mariadb}
protocol = "mysql"
user = "collector"
password = {{ env = "PORTOLAN_TEST_PASSWORD" }}
database = "shop"
table = "orders"
cursor = "id"
tls = {{ ca = "{ca}", server_name = "localhost" }}

[[round]]
name = "shop"
sources = ["events", "orders", "static"]
every = "200ms"
"#,
            nginx = self.nginx.http_port(),
            mariadb = self.database.port(),
        )
    }

    fn compare(&self, bench: &Bench) {
        // A decimal has more digits than a JSON number keeps: compared as text.
        for (table, columns) in
            [("orders", "id, item, cast(price as varchar) as price"), ("events", "id, machine, load")]
        {
            let sql = format!("select {columns} from {table} order by id");
            let outside = duckdb::query(&bench.lake(), &sql).unwrap();
            let difference = self.ledger.compare(table, "id", &outside);
            assert!(difference.is_empty(), "{table} by DuckDB: {difference}");
            let own = bench.query(&sql);
            let difference = self.ledger.compare(table, "id", &own);
            assert!(difference.is_empty(), "{table} by the program: {difference}");
        }
    }
}

#[test]
fn every_row_of_every_port_arrives_once() {
    let mut world = World::new();
    world.write(30);
    let bench = Bench::new(&world.configuration());
    let answers = bench.json(&["check", "--connect", "--json"]);
    assert!(answers.as_array().unwrap().iter().all(|answer| answer["ok"] == true), "{answers}");
    let mut collector = bench.start(&["run"]);
    for batch in [1, 400, 2_500] {
        world.write(batch);
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let expected = world.ledger.count("orders") as i64;
    bench.wait_for_lake("orders");
    bench.wait_until("all rows are in the lake", || {
        bench.status("orders")["rows_total"] == expected && bench.status("events")["rows_total"] == expected
    });
    assert_eq!(bench.status("orders")["state"], "healthy");
    // While the collector writes, readers see whole states.
    world.compare(&bench);
    let status = collector.stop(Signal::TERM, PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", bench.log());
    world.compare(&bench);

    // What was committed together is seen together: at every round, the receipts' rows are the tables' rows.
    let rounds = bench.query("select round from portolan.rounds order by round");
    assert!(rounds.len() >= 3, "{} rounds", rounds.len());
    let mismatches = bench.query(
        "select r.round, r.source, r.rows from portolan.receipts r \
         left join (select _round, count(*) as n from orders group by _round) o on o._round = r.round \
         where r.source = 'orders' and r.rows <> coalesce(o.n, 0)",
    );
    assert!(mismatches.is_empty(), "{mismatches:?}");
    // The same time travel by both readers.
    let middle = rounds[rounds.len() / 2]["round"].as_i64().unwrap();
    let own =
        bench.json(&["query", "select count(*) as n from orders", "--at", &middle.to_string(), "--format", "json"]);
    let snapshot = bench.number(&format!("select snapshot_id from portolan.rounds where round = {middle}"));
    let outside = duckdb::query_at(&bench.lake(), snapshot, "select count(*) as n from orders").unwrap();
    assert_eq!(own[0]["n"], outside[0]["n"]);
}

#[test]
fn fetch_yields_one_document_and_joins_live_rows() {
    let mut world = World::new();
    world.write(20);
    let bench = Bench::new(&world.configuration());
    let document = bench.json(&["fetch"]);
    assert_eq!(document["orders"].as_array().map(Vec::len), Some(20));
    assert_eq!(document["events"].as_array().map(Vec::len), Some(20));
    assert_eq!(document["static"], json!([{"ok": 1}]));
    assert!(!bench.lake().exists(), "fetch without --save makes no lake");
    let joined = bench.json(&[
        "fetch",
        "--format",
        "json",
        "--sql",
        "select o.id, cast(o.price as varchar) as price, e.machine from orders o join events e on e.id = o.id order by o.id limit 2",
    ]);
    assert_eq!(joined[0], json!({"id": 1, "price": "11.0000000007", "machine": "m1"}));
    bench.text(&["fetch", "--save"]);
    world.write(5);
    let new = bench.json(&["fetch", "--new", "orders"]);
    assert_eq!(new["orders"].as_array().map(Vec::len), Some(5));
    let saved = bench.json(&["fetch", "--save"]);
    assert_eq!(saved["orders"].as_array().map(Vec::len), Some(5));
    world.compare(&bench);
}

#[test]
fn a_dead_port_is_told_and_the_others_rows_still_come() {
    let mut world = World::new();
    world.write(3);
    let bench = Bench::new(&world.configuration());
    world.database.kill().unwrap();
    let output = bench.run(&["fetch"]);
    assert_eq!(output.status.code(), Some(3));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["events"].as_array().map(Vec::len), Some(3));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("orders") && errors.contains("refused"), "{errors}");
    let only = bench.run(&["fetch", "orders"]);
    assert_eq!(only.status.code(), Some(4));
}

/// The same rows by PostgreSQL, over TLS: its own types in the lake, as DuckDB sees them, and only new rows after a kill.
#[test]
fn rows_of_postgres_arrive_once_with_their_types() {
    let mut server = Postgres::start().unwrap();
    server
        .sql(
            "CREATE TABLE orders (id bigint PRIMARY KEY, item text NOT NULL, price numeric(30,10), total numeric, tags text[], \
             key uuid, body jsonb, span interval, at timestamptz)",
        )
        .unwrap();
    let mut ledger = Ledger::default();
    let mut write = |server: &Postgres, ids: std::ops::Range<u64>| {
        for id in ids.clone() {
            let total = format!("{id}.{}", "1".repeat(40));
            ledger.wrote(
                "orders",
                id,
                json!({"id": id, "item": format!("it'em \u{e9}{id}"), "price": format!("{id}{id}.{:010}", id * 7), "total": total,
                    "tag": format!("t{id}"), "key": format!("00000000-0000-0000-0000-{id:012}"), "days": 3, "at": format!("2026-11-22 10:00:00.{id:06}")}),
            );
        }
        server
            .sql(&format!(
                "INSERT INTO orders SELECT id, 'it''em \u{e9}' || id, (id::text || id || '.' || lpad((id * 7)::text, 10, '0'))::numeric, \
                 (id || '.{ones}')::numeric, ARRAY['a', 't' || id], lpad(id::text, 32, '0')::uuid, jsonb_build_object('n', id), \
                 '1 mon 3 days 00:00:01', timestamptz '2026-11-22 10:00:00Z' + id * interval '1 microsecond' \
                 FROM generate_series({}::bigint, {}) AS id",
                ids.start,
                ids.end - 1,
                ones = "1".repeat(40)
            ))
            .unwrap();
    };
    write(&server, 1..31);
    let configuration = format!(
        "[server]\nhost = \"127.0.0.1\"\n[[source]]\nname = \"orders\"\nport = {}\nprotocol = \"postgres\"\nuser = \"collector\"\n\
         password = {{ literal = \"{COLLECTOR_PASSWORD}\" }}\ndatabase = \"shop\"\ntable = \"orders\"\ncursor = \"id\"\n\
         tls = {{ ca = \"{}\" }}\n[[round]]\nname = \"shop\"\nsources = [\"orders\"]\nevery = \"200ms\"\n",
        server.port(),
        server.tls().authority.display()
    );
    let bench = Bench::new(&configuration);
    let answers = bench.json(&["check", "--connect", "--json"]);
    assert!(answers.as_array().unwrap().iter().all(|answer| answer["ok"] == true), "{answers}");
    let mut collector = bench.start(&["run"]);
    bench.wait_for_lake("orders");
    bench.wait_until("the first rows are in the lake", || bench.status("orders")["rows_total"] == 30);
    server.kill().unwrap();
    server.start_again().unwrap();
    write(&server, 31..3_000);
    bench.wait_until("all rows are in the lake", || bench.status("orders")["rows_total"] == 2_999);
    let status = collector.stop(Signal::TERM, PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", bench.log());
    let sql = "select id, item, cast(price as varchar) as price, total, tags[2] as tag, cast(key as varchar) as key, \
               span.days as days, strftime(o.\"at\" at time zone 'UTC', '%Y-%m-%d %H:%M:%S.%f') as \"at\" from orders o order by id";
    let outside = duckdb::query(&bench.lake(), sql).unwrap();
    let difference = ledger.compare("orders", "id", &outside);
    assert!(difference.is_empty(), "by DuckDB: {difference}");
    let kinds = duckdb::query(
        &bench.lake(),
        "select distinct typeof(key) as key, typeof(body) as body, typeof(\"at\") as \"at\", typeof(tags) as tags from orders",
    );
    let kinds = kinds.unwrap();
    let expected = json!({"key": "UUID", "body": "JSON", "at": "TIMESTAMP WITH TIME ZONE", "tags": "VARCHAR[]"});
    assert_eq!(kinds, [expected]);
}
