//! The state machine of one source: a port that fails is a result, not an error of the program.
//!
//! ```text
//! connecting ─ success ─► healthy ─ failure ─► degraded ─ failures ≥ limit ─► down
//!     ▲  │                   ▲                    │                            │
//!     │  └─ failure ─► degraded                   └───────── success ──► healthy
//!     └────────────────────── the probe beside the rounds gets through ────────┘
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// Consecutive failures after which a source is down and no longer waited for.
pub const FAILURES_UNTIL_DOWN: u32 = 3;

/// Where a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not read yet since the start, or reached again after having been down.
    Connecting,
    /// The last read succeeded.
    Healthy,
    /// The last read failed; rounds still wait for it.
    Degraded,
    /// Several reads in a row failed; rounds go on without it while it is probed beside them.
    Down,
}

impl State {
    /// The stable name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }

    /// Reads the stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Connecting, Self::Healthy, Self::Degraded, Self::Down].into_iter().find(|state| state.as_str() == name)
    }
}

/// The cause of a state that is not healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The kind of the last failure.
    pub kind: ErrorKind,
    /// The last failure in words.
    pub message: String,
    /// What to do next, where known.
    pub hint: Option<String>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateMachine {
    state: State,
    cause: Option<Cause>,
    since: Timestamp,
    failures: u32,
}

impl StateMachine {
    /// A source that has not been read yet.
    pub fn new(now: Timestamp) -> Self {
        Self { state: State::Connecting, cause: None, since: now, failures: 0 }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is not healthy.
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// When it entered the present state.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A read succeeded. Returns whether the state changed.
    pub fn succeeded(&mut self, now: Timestamp) -> bool {
        self.failures = 0;
        self.cause = None;
        self.enter(State::Healthy, now)
    }

    /// A read, or a probe while down, failed. Returns whether state or kind of cause changed.
    pub fn failed(&mut self, error: &Error, now: Timestamp) -> bool {
        self.failures = self.failures.saturating_add(1);
        let other_kind = self.cause.as_ref().is_none_or(|cause| cause.kind != error.kind());
        self.cause = Some(Cause { kind: error.kind(), message: error.chain(), hint: error.hint().map(str::to_owned) });
        let next = if self.failures >= FAILURES_UNTIL_DOWN { State::Down } else { State::Degraded };
        self.enter(next, now) || other_kind
    }

    /// Something is wrong though it can be read: what was stored could not be acknowledged, or the source complains. It is
    /// read on: this alone never puts it down. Returns whether state or kind of cause changed.
    pub fn complained(&mut self, error: &Error, now: Timestamp) -> bool {
        self.failures = self.failures.min(FAILURES_UNTIL_DOWN - 2);
        self.failed(error, now)
    }

    /// The probe beside the rounds got through. The cause is kept until a read succeeds, and one more failure puts the
    /// source down again: a port that accepts and then hangs holds up one round, not three.
    pub fn reached(&mut self, now: Timestamp) -> bool {
        self.failures = FAILURES_UNTIL_DOWN - 1;
        self.enter(State::Connecting, now)
    }

    fn enter(&mut self, state: State, now: Timestamp) -> bool {
        let changed = self.state != state;
        if changed {
            self.state = state;
            self.since = now;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_down_after_the_limit_and_comes_back() {
        let now = Timestamp::UNIX_EPOCH;
        let error = Error::new(ErrorKind::Unreachable, "connect", "connection refused");
        let mut machine = StateMachine::new(now);
        assert!(machine.failed(&error, now));
        assert_eq!(machine.state(), State::Degraded);
        assert!(!machine.failed(&error, now));
        assert!(machine.failed(&error, now));
        assert_eq!((machine.state(), machine.failures()), (State::Down, 3));
        assert_eq!(machine.cause().map(|cause| cause.kind), Some(ErrorKind::Unreachable));
        assert!(machine.reached(now));
        assert_eq!(machine.state(), State::Connecting);
        assert!(machine.clone().failed(&error, now));
        assert!(machine.succeeded(now));
        assert_eq!((machine.state(), machine.cause()), (State::Healthy, None));
    }

    #[test]
    fn names_round_trip() {
        for state in [State::Connecting, State::Healthy, State::Degraded, State::Down] {
            assert_eq!(State::from_name(state.as_str()), Some(state));
        }
    }
}
