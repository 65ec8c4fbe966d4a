//! MariaDB: `orders`, a table with a rising key.

use std::sync::Mutex;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Progress, Station, Writing, batch, lock};
use crate::crash::random::Random;
use crate::servers::{COLLECTOR_PASSWORD, MariaDb, Session};

const ORDERS: &str = "orders";

/// The server.
#[derive(Debug)]
pub(super) struct Mysql {
    server: Mutex<MariaDb>,
}

/// A row of `orders` as the lake must show it.
pub(super) fn order(id: i64) -> Value {
    let note = if id % 5 == 0 { Value::Null } else { json!(format!("note é \"{id}\"\n")) };
    let amount = format!("{}.{:02}", id * 37 % 100_000, id % 100);
    json!({ "id": id, "customer": format!("customer-{}", id % 97), "amount": amount, "note": note })
}

impl Mysql {
    pub(super) fn start() -> Result<Self> {
        let server = MariaDb::start()?;
        server.sql(
            "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer VARCHAR(40) NOT NULL, amount DECIMAL(12,2) NOT NULL, \
             note TEXT)",
        )?;
        Ok(Self { server: Mutex::new(server) })
    }
}

impl Station for Mysql {
    fn configuration(&self) -> String {
        format!(
            r#"
[[source]]
name = "orders"
port = {}
protocol = "mysql"
tls = {{ allow_plaintext = "loopback" }}
user = "collector"
password = {{ literal = "{COLLECTOR_PASSWORD}" }}
database = "shop"
table = "orders"
cursor = "id"
required = false
"#,
            lock(&self.server).port()
        )
    }

    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()> {
        let mut session: Option<Session> = None;
        while writing.goes_on(10, 150) {
            // The lock is held only to connect: a killed server must be able to start while we wait.
            let mut open = match session.take() {
                Some(session) => session,
                None => {
                    let Ok(mut fresh) = lock(&self.server).session() else { continue };
                    // Whether the statement that was cut off took effect is seen here.
                    let Ok(rows) = fresh.execute("SELECT COALESCE(MAX(id), 0) FROM orders;") else { continue };
                    progress.found(ORDERS, rows.first().and_then(|row| row.parse().ok()).unwrap_or(0));
                    fresh
                }
            };
            let ids = batch(&mut writing.random, progress.of(ORDERS) + 1);
            let highest = ids.end - 1;
            let rows: Vec<String> = ids.map(values).collect();
            if open.execute(&format!("INSERT INTO orders VALUES {};", rows.join(","))).is_ok() {
                progress.found(ORDERS, highest);
                session = Some(open);
            }
        }
        // What was cut off last may have taken effect.
        let highest = lock(&self.server).sql("SELECT COALESCE(MAX(id), 0) FROM orders")?;
        progress.found(ORDERS, highest.trim().parse()?);
        Ok(())
    }

    fn blow(&self, random: &mut Random) -> Result<&'static str> {
        let pause = random.moment(0, 900);
        let mut server = lock(&self.server);
        if random.once_in(2) {
            server.process().pause()?;
            std::thread::sleep(pause);
            server.process().resume()?;
            return Ok("mariadb (frozen)");
        }
        server.kill()?;
        std::thread::sleep(pause);
        server.start_again()?;
        Ok("mariadb")
    }
}

fn values(id: i64) -> String {
    let row = order(id);
    let note = match row["note"].as_str() {
        Some(note) => format!("'{}'", note.replace('\n', "\\n")),
        None => "NULL".into(),
    };
    format!(
        "({id},'{}',{},{note})",
        row["customer"].as_str().unwrap_or_default(),
        row["amount"].as_str().unwrap_or("0")
    )
}
