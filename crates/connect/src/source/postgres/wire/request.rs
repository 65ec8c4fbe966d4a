//! What a client says. Texts hold no NUL: the options and the server's own names are checked for it.

/// The protocol's number, 3.0.
const PROTOCOL: i32 = 196_608;
const TLS_REQUEST: i32 = 80_877_103;
const CANCEL_REQUEST: i32 = 80_877_102;

/// Messages, one after the other, ready to be sent at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// Asks for TLS.
    pub(crate) fn tls() -> Vec<u8> {
        [8, TLS_REQUEST].into_iter().flat_map(i32::to_be_bytes).collect()
    }

    /// Asks the server to end what the connection with this number does.
    pub(crate) fn cancel(process: i32, secret: &[u8]) -> Vec<u8> {
        let length = 12 + secret.len() as i32;
        let mut request: Vec<u8> = [length, CANCEL_REQUEST, process].into_iter().flat_map(i32::to_be_bytes).collect();
        request.extend_from_slice(secret);
        request
    }

    /// Opens a session with these parameters.
    pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut request = Self(vec![0; 4]);
        request.0.extend_from_slice(&PROTOCOL.to_be_bytes());
        for (name, value) in parameters {
            request.text(name).text(value);
        }
        request.0.push(0);
        let length = request.0.len() as i32;
        request.0[..4].copy_from_slice(&length.to_be_bytes());
        request.0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Runs statements; their rows come as text.
    pub(crate) fn query(mut self, sql: &str) -> Self {
        self.message(b'Q', |request| {
            request.text(sql);
        });
        self
    }

    /// Prepares a statement under a name, in place of one that had it before.
    pub(crate) fn parse(mut self, name: &str, sql: &str) -> Self {
        self.message(b'C', |request| {
            request.0.push(b'S');
            request.text(name);
        });
        self.message(b'P', |request| {
            request.text(name).text(sql).0.extend_from_slice(&[0, 0]);
        });
        self
    }

    /// Asks for the columns of a prepared statement.
    pub(crate) fn describe(mut self, name: &str) -> Self {
        self.message(b'D', |request| {
            request.0.push(b'S');
            request.text(name);
        });
        self
    }

    /// Executes a prepared statement that takes no parameters.
    pub(crate) fn execute(mut self, name: &str) -> Self {
        self.message(b'B', |request| {
            request.text("").text(name).0.extend_from_slice(&[0; 6]);
        });
        self.message(b'E', |request| {
            request.text("").0.extend_from_slice(&[0; 4]);
        });
        self
    }

    /// Ends the request.
    pub(crate) fn sync(mut self) -> Self {
        self.message(b'S', |_| {});
        self
    }

    /// Says goodbye.
    pub(crate) fn terminate(mut self) -> Self {
        self.message(b'X', |_| {});
        self
    }

    /// A password, or a step of SCRAM.
    pub(crate) fn password(mut self, bytes: &[u8]) -> Self {
        self.message(b'p', |request| request.0.extend_from_slice(bytes));
        self
    }

    fn message(&mut self, tag: u8, fill: impl FnOnce(&mut Self)) {
        self.0.push(tag);
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(self);
        let length = (self.0.len() - start) as i32;
        self.0[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_lengths() {
        assert_eq!(Request::tls(), b"\0\0\0\x08\x04\xd2\x16\x2f");
        assert_eq!(Request::startup(&[("user", "a")]), b"\0\0\0\x10\0\x03\0\0user\0a\0\0");
        assert_eq!(Request::cancel(1, &[0, 0, 0, 2]), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02");
        let request = Request::default().describe("w").execute("r").sync();
        assert_eq!(request.bytes(), b"D\0\0\0\x07Sw\0B\0\0\0\x0d\0r\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
    }
}
