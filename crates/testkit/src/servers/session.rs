//! A kept connection through the command-line client of a database, for a writer.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A kept connection through a client, one batch of statements at a time.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    batches: u64,
    /// What makes the client print a word of its own, which tells that it is done with what came before.
    echo: fn(&str) -> String,
}

impl Session {
    /// Starts `client`, which reads statements and prints their rows, a line each.
    pub(super) fn open(mut client: Command, echo: fn(&str) -> String) -> Result<Self> {
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("client without input")?;
        let output = BufReader::new(child.stdout.take().context("client without output")?);
        Ok(Self { child, input, output, batches: 0, echo })
    }

    /// Runs statements (ended by `;`) and waits until the server has answered; returns the rows printed.
    ///
    /// # Errors
    /// A statement failed or the connection is lost: whether it took effect is not known, and the session is of no
    /// more use.
    pub fn execute(&mut self, statements: &str) -> Result<Vec<String>> {
        self.batches += 1;
        let end = format!("portolan-end-{}", self.batches);
        let sent = writeln!(self.input, "{statements}\n{}", (self.echo)(&end)).and_then(|()| self.input.flush());
        let mut rows = Vec::new();
        loop {
            let mut line = String::new();
            if sent.is_err() || self.output.read_line(&mut line)? == 0 {
                let status = self.child.wait()?;
                let mut reason = String::new();
                if let Some(errors) = self.child.stderr.as_mut() {
                    errors.read_to_string(&mut reason)?;
                }
                bail!("the client ended with {status}: {}", reason.trim());
            }
            let line = line.trim_end_matches('\n');
            if line == end {
                return Ok(rows);
            }
            rows.push(line.to_owned());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Statements as an error shows them.
pub(super) fn shortened(statements: &str) -> String {
    let mut text: String = statements.chars().take(120).collect();
    if text.len() < statements.len() {
        text.push('…');
    }
    text
}
