//! What the options of sources have in common: what is wrong with them is collected, and their secrets are resolved.

use portolan_model::config::{Diagnostic, SecretReference, SourceSpec};
use portolan_model::source::{Environment, Secret};
use portolan_model::{Error, ErrorKind, Result};

/// Collects every problem of a source's options, before the network is touched.
pub(crate) struct Problems<'a> {
    spec: &'a SourceSpec,
    found: Vec<Diagnostic>,
}

impl<'a> Problems<'a> {
    pub(crate) fn of(spec: &'a SourceSpec) -> Self {
        Self { spec, found: Vec::new() }
    }

    /// Adds a problem of the option `key`.
    pub(crate) fn add(&mut self, key: &str, message: impl Into<String>, help: &str) {
        self.found.push(Diagnostic::new(message.into(), self.spec.options.span_of(key)).with_help(help));
    }

    /// Exactly one of two options says what is read; `help` shows how either is written.
    pub(crate) fn check_either(&mut self, [one, other]: [(&str, bool); 2], help: &str) {
        let (names, name) = ([one.0, other.0], &self.spec.name);
        match (one.1, other.1) {
            (true, true) => {
                let message = format!("`{}` and `{}` exclude each other", names[0], names[1]);
                self.add(names[1], message, "keep one of them");
            }
            (false, false) => {
                let message = format!("source `{name}` names neither `{}` nor `{}`", names[0], names[1]);
                self.add(names[0], message, help);
            }
            _ => {}
        }
    }

    pub(crate) fn into_found(self) -> Vec<Diagnostic> {
        self.found
    }
}

/// What keeps a source from being opened.
pub(crate) fn refused(spec: &SourceSpec, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, "open source", message.into()).with_source(&spec.name)
}

/// The password of a source's account, where one is configured.
pub(crate) fn password(
    spec: &SourceSpec,
    environment: &Environment,
    reference: Option<&SecretReference>,
) -> Result<Option<Secret>> {
    let password = reference.map(|reference| environment.secrets.resolve(reference));
    password.transpose().map_err(|error| error.with_source(&spec.name))
}
