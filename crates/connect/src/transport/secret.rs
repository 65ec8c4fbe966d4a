//! Secrets from the environment and from files.
//!
//! Promise: an error names the variable or the file, never the value; a file's size is bounded.

use std::io::Read;
use std::path::{Path, PathBuf};

use portolan_model::config::SecretReference;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{Secret, Secrets};

/// The longest secret read from a file, in bytes.
const SECRET_LENGTH_MAX: u64 = 64 << 10;

const OPERATION: &str = "read secret";

/// Reads secrets from this process's environment and from files relative to one folder.
#[derive(Clone, Debug)]
pub struct SystemSecrets {
    folder: PathBuf,
}

impl SystemSecrets {
    /// Files are relative to `folder`, which is that of the configuration file.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl Secrets for SystemSecrets {
    fn resolve(&self, reference: &SecretReference) -> Result<Secret> {
        match reference {
            SecretReference::Literal(text) => Ok(Secret::new(text.as_str())),
            SecretReference::Environment(name) => match std::env::var(name) {
                Ok(text) if !text.is_empty() => Ok(Secret::new(text)),
                Ok(_) => Err(problem(format!("environment variable `{name}` is empty"))),
                Err(std::env::VarError::NotPresent) => {
                    Err(problem(format!("environment variable `{name}` is not set"))
                        .with_hint(format!("set it before starting: export {name}=…")))
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    Err(problem(format!("environment variable `{name}` is not UTF-8")))
                }
            },
            SecretReference::File(path) => read_file(&self.folder.join(path)),
        }
    }
}

fn problem(message: String) -> Error {
    Error::new(ErrorKind::Configuration, OPERATION, message)
}

fn read_file(path: &Path) -> Result<Secret> {
    let shown = path.display();
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_LENGTH_MAX + 1).read_to_string(&mut text))
        .map_err(|error| problem(format!("secret file {shown} is not readable")).with_cause(error))?;
    if text.len() as u64 > SECRET_LENGTH_MAX {
        return Err(problem(format!("secret file {shown} has more than {SECRET_LENGTH_MAX} bytes")));
    }
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(problem(format!("secret file {shown} is empty")));
    }
    Ok(Secret::new(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_loses_one_line_end_and_an_error_names_the_place() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hunter2\r\n").unwrap();
        let secrets = SystemSecrets::new(folder.path());
        let secret = secrets.resolve(&SecretReference::File("token".into())).unwrap();
        assert_eq!(secret.expose(), "hunter2");
        let error = secrets.resolve(&SecretReference::File("absent".into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.message().contains("absent"));
        let error = secrets.resolve(&SecretReference::Environment("PORTOLAN_TEST_ABSENT".into())).unwrap_err();
        assert!(error.message().contains("PORTOLAN_TEST_ABSENT"));
    }
}
