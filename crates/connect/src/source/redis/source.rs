//! A source: keeps a connection, and reads keys, a stream or a group over it.

use async_trait::async_trait;
use portolan_model::name::SourceName;
use portolan_model::source::{Capabilities, Output, Probe, ReadEnd, Source};
use portolan_model::{Error, ErrorKind, Position, Result};

use super::connection::{Connection, Endpoint, Silent};
use super::group::{self, Taken};
use super::keys::Walk;
use super::plan::Plan;
use super::stream::{self, PageSize, Reading};

/// Keys or a stream behind a port.
pub(super) struct RedisSource {
    pub(super) name: SourceName,
    pub(super) address: String,
    pub(super) endpoint: Endpoint,
    pub(super) plan: Plan,
    pub(super) connection: Option<Connection>,
    pub(super) page: PageSize,
    pub(super) taken: Taken,
}

impl RedisSource {
    fn named(&self, error: Error) -> Error {
        error.with_source(&self.name).with_address(self.address.clone())
    }

    async fn connect(&mut self) -> Result<Connection> {
        let mut connection = Connection::open(&mut self.endpoint).await?;
        if let Plan::Stream(plan) = &self.plan
            && let Some(group) = plan.group.as_ref().filter(|group| group.create)
        {
            group::create(plan, group, &mut connection).await?;
        }
        Ok(connection)
    }

    async fn read_over(
        &mut self,
        connection: &mut Connection,
        from: Option<&Position>,
        output: &mut dyn Output,
    ) -> Result<Reading> {
        match self.plan.clone() {
            Plan::Keys(plan) => {
                Walk::new(&plan, connection, output).run().await?;
                Ok(Reading { end: ReadEnd::default(), is_cut: false })
            }
            Plan::Stream(plan) => match &plan.group {
                None => stream::read(&plan, connection, &mut self.page, from, output).await,
                Some(group) => {
                    // What an earlier read has taken is pending on the server and comes again.
                    self.taken = Taken::default();
                    group::read(&plan, group, connection, &mut self.page, &mut self.taken, from, output).await
                }
            },
        }
    }
}

#[async_trait]
impl Source for RedisSource {
    fn capabilities(&self) -> Capabilities {
        let (resume, acknowledge) = match &self.plan {
            Plan::Keys(_) => (false, false),
            Plan::Stream(plan) => (plan.group.is_none(), plan.group.is_some()),
        };
        Capabilities { resume, acknowledge, ..super::CAPABILITIES }
    }

    async fn prepare(&mut self) -> Result<()> {
        if let Some(mut connection) = self.connection.take()
            && connection.is_alive(self.endpoint.connect_timeout).await
        {
            self.connection = Some(connection);
            return Ok(());
        }
        self.connection = Some(self.connect().await.map_err(|error| self.named(error))?);
        Ok(())
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        if self.connection.is_none() {
            self.prepare().await?;
        }
        // Taken out: after an error or a drop the connection is in an unknown state and never used again.
        let Some(mut connection) = self.connection.take() else {
            return Err(self.named(Error::new(ErrorKind::Internal, "read", "prepared without a connection")));
        };
        let reading = self.read_over(&mut connection, from, output).await.map_err(|error| match error.kind() {
            // The lake's own errors are not this port's.
            ErrorKind::Storage | ErrorKind::StorageFull | ErrorKind::Corrupt | ErrorKind::Cancelled => error,
            _ => self.named(error),
        })?;
        if !reading.is_cut {
            self.connection = Some(connection);
        }
        Ok(reading.end)
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<()> {
        let Plan::Stream(plan) = self.plan.clone() else { return Ok(()) };
        let Some(group) = &plan.group else { return Ok(()) };
        if !self.taken.is_of(position) {
            // Of an earlier read, or of a process before this one: what it took is pending and comes again.
            return Ok(());
        }
        if self.connection.is_none() {
            self.prepare().await?;
        }
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let told = group::acknowledge(&plan, group, &mut connection, &mut self.taken).await;
        told.map_err(|error| self.named(error))?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        self.prepare().await?;
        let Some(mut connection) = self.connection.take() else { return Ok(Probe::default()) };
        let server = connection.server.clone();
        let mut facts = Vec::new();
        for (name, value) in [("mode", &server.mode), ("role", &server.role)] {
            if !value.is_empty() {
                facts.push((name.to_owned(), value.clone()));
            }
        }
        if let Plan::Stream(plan) = &self.plan {
            connection.command(&[b"XINFO", b"STREAM", plan.stream.as_bytes()]);
            connection.pass_large(true);
            connection.exchange(&mut Silent).await.map_err(|error| self.named(error))?;
            connection.pass_large(false);
            match stream::stream_info(&mut connection).map_err(|error| self.named(error))? {
                None => facts.push(("stream".into(), "does not exist yet".into())),
                Some(info) => {
                    facts.push(("entries".into(), info.length.to_string()));
                    facts.push(("last id".into(), info.last.to_string()));
                    if info.added.is_none() {
                        facts.push(("removed entries".into(), "cannot be counted before Redis 7".into()));
                    }
                }
            }
        }
        self.connection = Some(connection);
        let name = format!("{} {}", server.name, server.version);
        let name = if name.trim().is_empty() { "a server without HELLO".to_owned() } else { name };
        Ok(Probe { server: Some(name), tls: server.tls, facts })
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}
