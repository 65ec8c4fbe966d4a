//! What the tests of Redis need beside the harness: commands, a server that plays, and the rows as JSON.

use std::time::Duration;

use portolan_testkit::conformance::source::to_json;
use portolan_testkit::servers::Redis;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::Recorder;

impl Recorder {
    /// The rows as JSON objects without nulls.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.batches.iter().flat_map(|batch| to_json(batch).unwrap()).collect()
    }

    /// The rows as JSON objects, ordered by their text.
    pub(crate) fn sorted(&self) -> Vec<Value> {
        let mut rows = self.json();
        rows.sort_by_key(Value::to_string);
        rows
    }

    /// One column of every row, as text; empty where null.
    pub(crate) fn texts(&self, column: &str) -> Vec<String> {
        let text = |row: &Value| match &row[column] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        self.json().iter().map(text).collect()
    }

    /// What went to the quarantine: reasons and contents.
    pub(crate) fn reasons(&self) -> Vec<(&'static str, &str)> {
        self.quarantined.iter().map(|item| (item.reason, item.content.as_str())).collect()
    }
}

/// Commands as words, sent at once.
pub(crate) fn send(server: &Redis, commands: &[&str]) {
    for command in commands {
        server.command(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

/// How a server greets in RESP3.
pub(crate) const HELLO: &[u8] = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n";

/// A server that answers each piece it receives with the next of `answers`.
pub(crate) async fn scripted(answers: Vec<Vec<u8>>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        for answer in answers {
            let received = socket.read(&mut buffer).await.unwrap();
            assert!(received > 0, "the client left early");
            // The client may have given up by then.
            let _ = socket.write_all(&answer).await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    });
    port
}
