//! MariaDB and PostgreSQL: `orders` and `invoices`, a table each with a rising key.

use std::sync::Mutex;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Progress, Station, Writing, batch, lock};
use crate::crash::random::Random;
use crate::servers::{COLLECTOR_PASSWORD, MariaDb, Postgres, Session};

/// A server with its table.
#[derive(Debug)]
pub(super) struct Database {
    server: Mutex<Server>,
    protocol: &'static str,
    table: &'static str,
    /// What a text with escapes begins with.
    text: &'static str,
}

#[derive(Debug)]
enum Server {
    MariaDb(MariaDb),
    Postgres(Postgres),
}

/// A row of either table as the lake must show it.
pub(super) fn row(id: i64) -> Value {
    let note = if id % 5 == 0 { Value::Null } else { json!(format!("note é \"{id}\"\n")) };
    let amount = format!("{}.{:02}", id * 37 % 100_000, id % 100);
    json!({ "id": id, "customer": format!("customer-{}", id % 97), "amount": amount, "note": note })
}

impl Server {
    fn port(&self) -> u16 {
        match self {
            Self::MariaDb(server) => server.port(),
            Self::Postgres(server) => server.port(),
        }
    }

    fn sql(&self, statement: &str) -> Result<String> {
        match self {
            Self::MariaDb(server) => server.sql(statement),
            Self::Postgres(server) => server.sql(statement),
        }
    }

    fn session(&self) -> Result<Session> {
        match self {
            Self::MariaDb(server) => server.session(),
            Self::Postgres(server) => server.session(),
        }
    }

    fn pause(&self) -> Result<()> {
        match self {
            Self::MariaDb(server) => server.process().pause(),
            Self::Postgres(server) => server.pause(),
        }
    }

    fn resume(&self) -> Result<()> {
        match self {
            Self::MariaDb(server) => server.process().resume(),
            Self::Postgres(server) => server.resume(),
        }
    }

    fn kill(&mut self) -> Result<()> {
        match self {
            Self::MariaDb(server) => server.kill(),
            Self::Postgres(server) => server.kill(),
        }
    }

    fn start_again(&mut self) -> Result<()> {
        match self {
            Self::MariaDb(server) => server.start_again(),
            Self::Postgres(server) => server.start_again(),
        }
    }
}

impl Database {
    pub(super) fn mariadb() -> Result<Self> {
        Self::with(Server::MariaDb(MariaDb::start()?), "mysql", "orders", "")
    }

    pub(super) fn postgres() -> Result<Self> {
        Self::with(Server::Postgres(Postgres::start()?), "postgres", "invoices", "E")
    }

    fn with(server: Server, protocol: &'static str, table: &'static str, text: &'static str) -> Result<Self> {
        server.sql(&format!(
            "CREATE TABLE {table} (id BIGINT PRIMARY KEY, customer VARCHAR(40) NOT NULL, amount DECIMAL(12,2) NOT NULL, \
             note TEXT)",
        ))?;
        Ok(Self { server: Mutex::new(server), protocol, table, text })
    }

    fn values(&self, id: i64) -> String {
        let row = row(id);
        let note = match row["note"].as_str() {
            Some(note) => format!("{}'{}'", self.text, note.replace('\n', "\\n")),
            None => "NULL".into(),
        };
        let (customer, amount) =
            (row["customer"].as_str().unwrap_or_default(), row["amount"].as_str().unwrap_or_default());
        format!("({id},'{customer}',{amount},{note})")
    }
}

impl Station for Database {
    fn configuration(&self) -> String {
        format!(
            r#"
[[source]]
name = "{table}"
port = {}
protocol = "{}"
tls = {{ allow_plaintext = "loopback" }}
user = "collector"
password = {{ literal = "{COLLECTOR_PASSWORD}" }}
database = "shop"
table = "{table}"
cursor = "id"
required = false
"#,
            lock(&self.server).port(),
            self.protocol,
            table = self.table,
        )
    }

    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()> {
        let table = self.table;
        let highest = format!("SELECT COALESCE(MAX(id), 0) FROM {table};");
        let mut session: Option<Session> = None;
        while writing.goes_on(10, 150) {
            // The lock is held only to connect: a killed server must be able to start while we wait.
            let mut open = match session.take() {
                Some(session) => session,
                None => {
                    let Ok(mut fresh) = lock(&self.server).session() else { continue };
                    // Whether the statement that was cut off took effect is seen here.
                    let Ok(rows) = fresh.execute(&highest) else { continue };
                    let Some(found) = rows.first().and_then(|row| row.trim().parse().ok()) else { continue };
                    progress.found(table, found);
                    fresh
                }
            };
            let ids = batch(&mut writing.random, progress.of(table) + 1);
            let last = ids.end - 1;
            let rows: Vec<String> = ids.map(|id| self.values(id)).collect();
            if open.execute(&format!("INSERT INTO {table} VALUES {};", rows.join(","))).is_ok() {
                progress.found(table, last);
                session = Some(open);
            }
        }
        // What was cut off last may have taken effect.
        progress.found(table, lock(&self.server).sql(&highest)?.trim().parse()?);
        Ok(())
    }

    fn blow(&self, random: &mut Random) -> Result<&'static str> {
        let pause = random.moment(0, 900);
        let mut server = lock(&self.server);
        if random.once_in(2) {
            server.pause()?;
            std::thread::sleep(pause);
            server.resume()?;
            return Ok(if self.protocol == "mysql" { "mariadb (frozen)" } else { "postgres (frozen)" });
        }
        server.kill()?;
        std::thread::sleep(pause);
        server.start_again()?;
        Ok(if self.protocol == "mysql" { "mariadb" } else { "postgres" })
    }
}
