//! One `[[source]]`: the shared keys are read, the protocol's own are set apart for its connector.

use std::time::Duration;

use toml_edit::{Item, Table};

use super::{
    IDLE_TIMEOUT_DEFAULT, KEY_MEMORY_DEFAULT, Reader, Rhythm, SHORTEST, ServerTable, SourceTable, is_host,
    property_names, unknown_key, unknown_value,
};
use crate::config::{CONNECT_TIMEOUT_DEFAULT, Diagnostic, EventTimeSpec, OptionTable, SourceSpec, TlsSpec};
use crate::name::{SourceName, name_problem};

impl Reader<'_> {
    pub(super) fn source(&mut self, table: &Table, server: &ServerTable) -> Option<(SourceSpec, Rhythm)> {
        let span = table.span();
        let common_keys = property_names(&schemars::schema_for!(SourceTable));
        let protocol = table.get("protocol").and_then(Item::as_str).unwrap_or_default();
        let connector = self.connectors.get(protocol);
        let option_keys = connector.map(|connector| property_names(&connector.option_schema())).unwrap_or_default();
        let mut has_unknown_key = false;
        let mut common = Table::new();
        let mut options = Table::new();
        for (key, item) in table {
            let key_span = table.key(key).and_then(toml_edit::Key::span);
            let entry_key = table.key(key).cloned().unwrap_or_else(|| toml_edit::Key::new(key));
            if common_keys.iter().any(|known| known == key) {
                common.insert_formatted(&entry_key, item.clone());
            } else if option_keys.iter().any(|known| known == key) {
                options.insert_formatted(&entry_key, item.clone());
            } else if connector.is_some() {
                has_unknown_key = true;
                let known: Vec<&str> = common_keys.iter().chain(&option_keys).map(String::as_str).collect();
                let entity = format!("key of a {protocol} source");
                self.report(unknown_key(&entity, key, &known, key_span.or_else(|| item.span())));
            }
        }
        if let Some(tls) = common.get("tls")
            && !tls.is_table_like()
        {
            self.report(Diagnostic::new("`tls` is a table", tls.span()).with_help(
                "leave it out for TLS 1.3; to speak without TLS, write the reason: tls = { allow_plaintext = \"why\" }",
            ));
            common.remove("tls");
        }
        if let Some(protocol_item) = table.get("protocol")
            && connector.is_none()
            && protocol_item.as_str().is_some()
        {
            let known: Vec<&str> = self.connectors.all().iter().map(|connector| connector.protocol()).collect();
            self.report(unknown_value("protocol", protocol, &known, protocol_item.span()));
        }
        let common: SourceTable = self.values(common, span.clone(), "a [[source]]")?;
        let connector = connector?;
        let place = |key: &str| table.get(key).and_then(Item::span).or_else(|| span.clone());
        if let Some(problem) = name_problem(&common.name) {
            self.report(Diagnostic::new(format!("{:?} is not a source name: {problem}", common.name), place("name")));
        }
        let port = common.port.or_else(|| connector.default_port());
        if port == Some(0) || (port.is_none() && !has_unknown_key) {
            self.report(
                Diagnostic::new(format!("source `{}` has no port", common.name), place("port"))
                    .with_help("write port = 1 … 65535"),
            );
        }
        let host = common.host.clone().or_else(|| server.host.clone());
        match &host {
            None => self.report(
                Diagnostic::new(format!("source `{}` has no host", common.name), span.clone())
                    .with_help("write host = \"…\" under [server], for all sources, or in the source"),
            ),
            Some(host) if common.host.is_some() && !is_host(host) => self.report(
                Diagnostic::new(format!("{host:?} is not a host name or address"), place("host"))
                    .with_help("write the name or address alone, without a scheme, a port or a path"),
            ),
            Some(_) => {}
        }
        let event_time = self.event_time(&common, table);
        let tls = common.tls.unwrap_or_default();
        self.tls(&tls, table, &common.name);
        for (key, value) in [
            ("connect_timeout", common.connect_timeout),
            ("idle_timeout", common.idle_timeout),
            ("every", common.every),
            ("deadline", common.deadline),
        ] {
            if value.is_some_and(|value| value.0 < SHORTEST) {
                self.report(Diagnostic::new(format!("{key} must be at least 1ms"), place(key)));
            }
        }
        if common.key_memory == Some(0) {
            self.report(
                Diagnostic::new("`key_memory` is 0: no row would be recognised as stored before", place("key_memory"))
                    .with_help("leave it out to remember the latest 100000 keys, or leave `key` out"),
            );
        }
        let rhythm = Rhythm {
            every: common.every.map(|value| value.0),
            deadline: common.deadline.map(|value| value.0),
            every_span: table.get("every").and_then(Item::span),
            deadline_span: table.get("deadline").and_then(Item::span),
        };
        let places = table.iter().filter_map(|(key, item)| Some((key.to_owned(), item.span()?))).collect();
        let spec = SourceSpec {
            name: SourceName::new(&common.name).ok()?,
            host: host?,
            port: port?,
            protocol: common.protocol,
            tls,
            required: common.required.unwrap_or(true),
            mode: common.mode,
            key: common.key,
            key_memory: common.key_memory.unwrap_or(KEY_MEMORY_DEFAULT),
            event_time,
            columns: common.columns,
            connect_timeout: common.connect_timeout.map_or(CONNECT_TIMEOUT_DEFAULT, |value| value.0),
            idle_timeout: common.idle_timeout.map_or(IDLE_TIMEOUT_DEFAULT, |value| value.0),
            options: OptionTable::new(options, places, span.clone()),
            span,
        };
        let found = connector.check(&spec);
        self.diagnostics.extend(found);
        Some((spec, rhythm))
    }

    fn event_time(&mut self, common: &SourceTable, table: &Table) -> Option<EventTimeSpec> {
        let place = |key: &str| table.get(key).and_then(Item::span);
        match &common.event_time {
            Some(column) if column.is_empty() => {
                let message = "`event_time` is empty";
                self.report(Diagnostic::new(message, place("event_time")).with_help("write the name of a column"));
                None
            }
            Some(column) => Some(EventTimeSpec {
                column: column.clone(),
                unit: common.event_time_unit,
                lateness: common.lateness.map_or(Duration::ZERO, |value| value.0),
            }),
            None => {
                let given =
                    [("event_time_unit", common.event_time_unit.is_some()), ("lateness", common.lateness.is_some())];
                for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                    self.report(
                        Diagnostic::new(format!("`{key}` has no effect without event_time"), place(key))
                            .with_help("name the column that holds the time of the event: event_time = \"…\""),
                    );
                }
                None
            }
        }
    }

    fn tls(&mut self, tls: &TlsSpec, table: &Table, source: &str) {
        let item = table.get("tls");
        let place = |key: &str| item.and_then(|tls| tls.get(key)).and_then(Item::span);
        for (key, reason) in [("allow_plaintext", &tls.allow_plaintext), ("allow_tls12", &tls.allow_tls12)] {
            if reason.as_deref().is_some_and(|reason| reason.trim().len() < 3) {
                self.report(
                    Diagnostic::new(format!("source `{source}`: {key} needs its reason"), place(key))
                        .with_help(format!("say why, for those who review it: {key} = \"trusted rack network\"")),
                );
            }
        }
        if tls.allow_plaintext.is_some() {
            let others = [
                ("ca", tls.ca.is_some()),
                ("certificate", tls.certificate.is_some()),
                ("key", tls.key.is_some()),
                ("server_name", tls.server_name.is_some()),
                ("allow_tls12", tls.allow_tls12.is_some()),
            ];
            if let Some((key, _)) = others.into_iter().find(|(_, present)| *present) {
                self.report(
                    Diagnostic::new(
                        format!("source `{source}`: `{key}` has no effect beside allow_plaintext"),
                        place(key),
                    )
                    .with_help("remove one of the two"),
                );
            }
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            let (present, absent) = if tls.key.is_some() { ("key", "certificate") } else { ("certificate", "key") };
            self.report(
                Diagnostic::new(format!("source `{source}`: tls.{present} without tls.{absent}"), place(present))
                    .with_help("a client certificate needs both PEM files"),
            );
        }
    }
}
