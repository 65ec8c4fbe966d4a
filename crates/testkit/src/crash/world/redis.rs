//! Redis: `entries`, a stream; `jobs`, a stream read as a group; `machines`, hashes read whole.

use std::sync::Mutex;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Progress, Station, Writing, batch, lock};
use crate::crash::random::Random;
use crate::servers::{Redis, RedisSession, Reply};

const STREAMS: [&str; 2] = ["entries", "jobs"];
const GROUP: &str = "lake";
const MACHINES: i64 = 5;

/// The server.
#[derive(Debug)]
pub(super) struct Cache {
    server: Mutex<Redis>,
}

/// An entry of a stream as the lake must show it; its Redis id is its number.
pub(super) fn entry(id: i64) -> Value {
    json!({ "entry": format!("{id}-0"), "id": id, "place": format!("hall é {}", id % 11), "celsius": id as f64 / 16.0 })
}

impl Cache {
    pub(super) fn start() -> Result<Self> {
        let station = Self { server: Mutex::new(Redis::start()?) };
        let mut session = lock(&station.server).session()?;
        set_machines(&mut session, 0)?;
        Ok(station)
    }
}

impl Station for Cache {
    fn configuration(&self) -> String {
        let port = lock(&self.server).port();
        let common = format!(
            "port = {port}\nprotocol = \"redis\"\ntls = {{ allow_plaintext = \"loopback\" }}\nrequired = false\n"
        );
        let stream = "id_column = \"entry\"\ncolumns = { id = \"bigint\", celsius = \"double\" }\ncount = 100\n";
        format!(
            "
[[source]]
name = \"entries\"
{common}stream = \"entries\"
{stream}
[[source]]
name = \"jobs\"
{common}stream = \"jobs\"
group = \"{GROUP}\"
create_group = true
{stream}
[[source]]
name = \"machines\"
{common}keys = \"machine:*\"
type = \"hash\"
columns = {{ version = \"bigint\" }}
"
        )
    }

    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()> {
        let mut session: Option<RedisSession> = None;
        let mut version = 0;
        while writing.goes_on(10, 150) {
            let mut open = match session.take() {
                Some(session) => session,
                None => {
                    let Ok(mut fresh) = lock(&self.server).session() else { continue };
                    // How many of the commands that were cut off took effect is seen here.
                    if look(&mut fresh, progress).is_err() {
                        continue;
                    }
                    fresh
                }
            };
            if add(&mut open, progress, writing, &mut version).is_ok() {
                session = Some(open);
            }
        }
        look(&mut lock(&self.server).session()?, progress)
    }

    fn blow(&self, random: &mut Random) -> Result<&'static str> {
        let pause = random.moment(0, 900);
        let mut server = lock(&self.server);
        match random.between(0, 3) {
            0 => {
                server.process().pause()?;
                std::thread::sleep(pause);
                server.process().resume()?;
                Ok("redis (frozen)")
            }
            1 => {
                server.command("CLIENT KILL TYPE normal")?;
                Ok("redis (connections)")
            }
            _ => {
                server.kill()?;
                std::thread::sleep(pause);
                server.start_again()?;
                Ok("redis")
            }
        }
    }

    fn whole(&self) -> Result<Vec<(&'static str, Vec<Value>)>> {
        let mut session = lock(&self.server).session()?;
        let rows = (0..MACHINES).map(|id| {
            let key = format!("machine:{id}");
            let reply = session.run(&[b"HGET", key.as_bytes(), b"version"])?;
            let Reply::Text(version) = reply else { anyhow::bail!("{key} has {reply:?}") };
            Ok(json!({ "id": key, "version": version.parse::<i64>()? }))
        });
        Ok(vec![("machines", rows.collect::<Result<_>>()?)])
    }

    fn forget_acknowledged(&self) -> Result<()> {
        lock(&self.server).command(&format!("XGROUP DESTROY jobs {GROUP}")).map(drop)
    }
}

fn set_machines(session: &mut RedisSession, version: i64) -> Result<()> {
    let version = version.to_string();
    for id in 0..MACHINES {
        session.run(&[b"HSET", format!("machine:{id}").as_bytes(), b"version", version.as_bytes()])?;
    }
    Ok(())
}

/// Notes the highest number of each stream.
fn look(session: &mut RedisSession, progress: &Progress) -> Result<()> {
    for stream in STREAMS {
        let reply = session.run(&[b"XREVRANGE", stream.as_bytes(), b"+", b"-", b"COUNT", b"1"])?;
        let Reply::List(entries) = &reply else { anyhow::bail!("{stream} has {reply:?}") };
        if let Some(newest) = entries.first() {
            let Reply::List(parts) = newest else { anyhow::bail!("{newest:?} is no entry") };
            let Some(Reply::Text(id)) = parts.first() else { anyhow::bail!("{newest:?} has no id") };
            progress.found(stream, id.trim_end_matches("-0").parse().with_context(|| format!("the id {id}"))?);
        }
    }
    Ok(())
}

fn add(session: &mut RedisSession, progress: &Progress, writing: &mut Writing, version: &mut i64) -> Result<()> {
    for stream in STREAMS {
        let ids = batch(&mut writing.random, progress.of(stream) + 1);
        let highest = ids.end - 1;
        let commands: Vec<Vec<String>> = ids.map(|id| command(stream, &entry(id))).collect();
        let commands: Vec<Vec<&[u8]>> =
            commands.iter().map(|words| words.iter().map(|word| word.as_bytes()).collect()).collect();
        session.run_all(&commands)?;
        progress.found(stream, highest);
    }
    if writing.random.once_in(10) {
        *version += 1;
        set_machines(session, *version)?;
    }
    Ok(())
}

fn command(stream: &str, entry: &Value) -> Vec<String> {
    let text = |name: &str| entry[name].as_str().map_or_else(|| entry[name].to_string(), str::to_owned);
    let mut words = vec!["XADD".to_owned(), stream.to_owned(), text("entry")];
    for name in ["id", "place", "celsius"] {
        words.extend([name.to_owned(), text(name)]);
    }
    words
}
