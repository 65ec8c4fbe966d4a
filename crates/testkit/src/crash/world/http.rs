//! An HTTP API, alone and behind nginx: `events`, pages with a cursor, and `devices`, read whole.

use std::sync::Mutex;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Progress, Station, Writing, batch, lock};
use crate::api::Api;
use crate::crash::random::Random;
use crate::servers::{Nginx, NginxOptions};

const EVENTS: &str = "events";
const DEVICES: &str = "devices";

/// The API and the nginx in front of it.
#[derive(Debug)]
pub(super) struct Http {
    api: Mutex<Api>,
    nginx: Mutex<Nginx>,
}

/// An item of `events` as the API shows it and the lake must.
pub(super) fn event(id: i64) -> Value {
    let kind = ["on", "off", "alarm"][(id % 3) as usize];
    json!({ "id": id, "kind": kind, "value": id * 7 % 1_000, "ratio": id as f64 / 8.0, "text": format!("event {id} ✓") })
}

impl Http {
    pub(super) fn start() -> Result<Self> {
        let api = Api::start()?;
        api.replace(DEVICES, (0..5).map(|id| json!({ "id": id, "version": 0 })));
        let nginx = Nginx::start(NginxOptions { upstream_port: Some(api.port()) })?;
        Ok(Self { api: Mutex::new(api), nginx: Mutex::new(nginx) })
    }
}

impl Station for Http {
    fn configuration(&self) -> String {
        format!(
            r#"
[[source]]
name = "events"
port = {}
protocol = "http"
tls = {{ allow_plaintext = "loopback" }}
path = "/api/link/events?limit=60"
pagination = {{ by = "link" }}
cursor = {{ parameter = "since", column = "id" }}
required = false

[[source]]
name = "devices"
port = {}
protocol = "http"
tls = {{ allow_plaintext = "loopback" }}
path = "/plain/devices"
mode = "replace"
required = false
"#,
            lock(&self.nginx).http_port(),
            lock(&self.api).port()
        )
    }

    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()> {
        let mut version = 0;
        while writing.goes_on(10, 150) {
            let ids = batch(&mut writing.random, progress.of(EVENTS) + 1);
            let highest = ids.end - 1;
            let Ok(api) = self.api.try_lock() else { continue };
            api.append(EVENTS, ids.map(event));
            progress.found(EVENTS, highest);
            if writing.random.once_in(10) {
                version += 1;
                api.replace(DEVICES, (0..5).map(|id| json!({ "id": id, "version": version })));
            }
        }
        Ok(())
    }

    fn blow(&self, random: &mut Random) -> Result<&'static str> {
        let pause = random.moment(0, 900);
        if random.once_in(2) {
            let mut api = lock(&self.api);
            api.kill();
            std::thread::sleep(pause);
            api.start_again()?;
            return Ok("api");
        }
        let mut nginx = lock(&self.nginx);
        nginx.kill()?;
        std::thread::sleep(pause);
        nginx.start_again()?;
        Ok("nginx")
    }

    fn whole(&self) -> Result<Vec<(&'static str, Vec<Value>)>> {
        Ok(vec![(DEVICES, lock(&self.api).items(DEVICES))])
    }
}
