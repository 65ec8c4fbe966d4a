//! Where the reads that are to see one snapshot tell each other what they have.
//!
//! A read hands in a word and gets those of all reads of its group that have not ended: an exchange without a middleman,
//! so that each of them decides the same from the same words.
//!
//! Promise: nobody waits for a read that has ended, nor longer than allowed for one that goes on; who comes too late is left
//! out for good and told so ([`Meetings::missed`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_model::source::{Meeting, SnapshotGroup};
use tokio::sync::Notify;

/// The groups of one collect.
pub(crate) struct Meetings {
    groups: Vec<Group>,
    allowed: Duration,
    /// Until then a read that has its rows may wait for the others.
    end: tokio::time::Instant,
}

struct Group {
    /// The reads of the group, by their places in the collect.
    members: Vec<usize>,
    state: Mutex<State>,
    moved: Notify,
}

struct State {
    places: Vec<Place>,
    /// How many meetings have ended.
    ended: u64,
    /// What was said in the latest one. It stays until all who were there have taken it: the next one needs them all.
    words: Arc<[Option<String>]>,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    /// Reading.
    Away,
    /// Waiting for the others, with its word.
    Here(String),
    /// Its read has ended.
    Gone,
    /// It did not come in time.
    Late,
}

impl Meetings {
    /// The meetings of reads that belong to these groups, in which nobody waits longer than `allowed`; all must have ended
    /// within `deadline` from now.
    pub(crate) fn new(groups: &[Option<SnapshotGroup>], allowed: Duration, deadline: Duration) -> Self {
        let mut members: BTreeMap<&SnapshotGroup, Vec<usize>> = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            if let Some(group) = group {
                members.entry(group).or_default().push(index);
            }
        }
        // Time is left to end in: who waits in vain is not cut off together with the one it has waited for.
        let end = tokio::time::Instant::now() + deadline.saturating_sub(deadline / 8);
        Self { groups: members.into_values().map(Group::new).collect(), allowed, end }
    }

    /// Whether the read `index` belongs to a group.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.place(index).is_some()
    }

    /// The read `index` hands in its word and waits for those of the others. Dropped before they are all there, it has not
    /// been called.
    pub(crate) async fn meet(&self, index: usize, word: String) -> Meeting {
        let Some((group, own)) = self.place(index) else { return Meeting { words: vec![Some(word)], own: 0 } };
        let number = {
            let mut state = group.state();
            let is_left_out = matches!(state.places[own], Place::Late | Place::Gone);
            if !is_left_out {
                state.places[own] = Place::Here(word);
            }
            (!is_left_out).then_some(state.ended)
        };
        // Told by `missed`.
        let Some(number) = number else { return std::future::pending().await };
        let _here = Here { group, own, number };
        group.end_if_complete();
        let mut patience = std::pin::pin!(tokio::time::sleep(self.allowed));
        loop {
            let moved = group.moved.notified();
            {
                let state = group.state();
                if state.ended > number {
                    return Meeting { words: state.words.to_vec(), own };
                }
            }
            tokio::select! {
                biased;
                () = moved => {}
                // Nobody is waited for any more: it has ended.
                () = &mut patience => group.leave_behind(number),
            }
        }
    }

    /// Ready once every other read of the group of `index` has ended or been left out, or little time is left.
    pub(crate) async fn others_ended(&self, index: usize) {
        let Some((group, own)) = self.place(index) else { return };
        let ended = async {
            loop {
                let moved = group.moved.notified();
                let is_over =
                    |(place, state): (usize, &Place)| place == own || matches!(state, Place::Gone | Place::Late);
                if group.state().places.iter().enumerate().all(is_over) {
                    return;
                }
                moved.await;
            }
        };
        let _ = tokio::time::timeout_at(self.end, ended).await;
    }

    /// Ready once the read `index` has missed a meeting.
    pub(crate) async fn missed(&self, index: usize) {
        let Some((group, own)) = self.place(index) else { return std::future::pending().await };
        loop {
            let moved = group.moved.notified();
            if group.state().places[own] == Place::Late {
                return;
            }
            moved.await;
        }
    }

    /// The read `index` has ended: nobody waits for it.
    pub(crate) fn leave(&self, index: usize) {
        if let Some((group, own)) = self.place(index) {
            group.state().places[own] = Place::Gone;
            group.end_if_complete();
        }
    }

    /// The longest that a read waits for another.
    pub(crate) fn allowed(&self) -> Duration {
        self.allowed
    }

    fn place(&self, index: usize) -> Option<(&Group, usize)> {
        self.groups.iter().find_map(|group| {
            let own = group.members.iter().position(|member| *member == index)?;
            Some((group, own))
        })
    }
}

impl Group {
    fn new(members: Vec<usize>) -> Self {
        let state = State { places: vec![Place::Away; members.len()], ended: 0, words: Arc::new([]) };
        Self { members, state: Mutex::new(state), moved: Notify::new() }
    }

    /// Ends the meeting if nobody is away any more.
    fn end_if_complete(&self) {
        let mut state = self.state();
        let is_complete = !state.places.contains(&Place::Away);
        if is_complete && state.places.iter().any(|place| matches!(place, Place::Here(_))) {
            let words = state.places.iter_mut().map(|place| match place {
                Place::Here(word) => {
                    let word = std::mem::take(word);
                    *place = Place::Away;
                    Some(word)
                }
                _ => None,
            });
            state.words = words.collect();
            state.ended += 1;
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// Those who are away from this meeting have not come in time.
    fn leave_behind(&self, number: u64) {
        {
            let mut state = self.state();
            if state.ended != number {
                return;
            }
            for place in state.places.iter_mut().filter(|place| **place == Place::Away) {
                *place = Place::Late;
            }
        }
        self.end_if_complete();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the word back when its read gives the wait up.
struct Here<'g> {
    group: &'g Group,
    own: usize,
    number: u64,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state();
        if state.ended == self.number && matches!(state.places[self.own], Place::Here(_)) {
            state.places[self.own] = Place::Away;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_secs(1);
    const DEADLINE: Duration = Duration::from_secs(8);

    fn meetings(members: usize) -> Meetings {
        Meetings::new(&vec![Some(SnapshotGroup::new("p", "h", 1, None)); members], ALLOWED, DEADLINE)
    }

    fn words(meeting: &Meeting) -> Vec<&str> {
        meeting.words.iter().map(|word| word.as_deref().unwrap_or("-")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn all_get_the_words_of_all_meeting_after_meeting() {
        let all = meetings(3);
        let read = async |index: usize| {
            let mut seen = Vec::new();
            for number in 0..3 {
                tokio::time::sleep(Duration::from_millis(10 * (index as u64 ^ number))).await;
                let meeting = all.meet(index, format!("{index}{number}")).await;
                assert_eq!((meeting.own, meeting.leader()), (index, 0));
                seen.push(words(&meeting).join(" "));
            }
            seen
        };
        let (a, b, c) = tokio::join!(read(0), read(1), read(2));
        assert_eq!(a, ["00 10 20", "01 11 21", "02 12 22"]);
        assert!(a == b && b == c);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_ended_is_not_waited_for() {
        let all = meetings(3);
        let ends = async {
            tokio::time::sleep(ALLOWED / 2).await;
            all.leave(0);
        };
        let (a, b, ()) = tokio::join!(all.meet(1, "b".into()), all.meet(2, "c".into()), ends);
        assert_eq!((words(&a), words(&b)), (vec!["-", "b", "c"], vec!["-", "b", "c"]));
        assert_eq!((a.leader(), a.own, b.own), (1, 1, 2));
        all.leave(1);
        assert_eq!(words(&all.meet(2, "alone".into()).await), ["-", "-", "alone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_too_late_is_left_behind_and_told() {
        let all = meetings(2);
        let begun = tokio::time::Instant::now();
        let (a, ()) = tokio::join!(all.meet(0, "a".into()), all.missed(1));
        assert_eq!(words(&a), ["a", "-"]);
        assert_eq!(begun.elapsed(), ALLOWED);
        // It never meets again.
        assert!(tokio::time::timeout(ALLOWED * 3, all.meet(1, "b".into())).await.is_err());
        assert_eq!(words(&all.meet(0, "a".into()).await), ["a", "-"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_dropped_takes_its_word_back() {
        let all = meetings(2);
        assert!(tokio::time::timeout(ALLOWED / 4, all.meet(0, "first".into())).await.is_err());
        let second = async {
            tokio::time::sleep(ALLOWED / 4).await;
            all.meet(0, "second".into()).await
        };
        let (a, b) = tokio::join!(second, all.meet(1, "b".into()));
        assert_eq!((words(&a), words(&b)), (vec!["second", "b"], vec!["second", "b"]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_others_waits_until_all_have_ended() {
        let all = meetings(3);
        let begun = tokio::time::Instant::now();
        let ends = async {
            tokio::time::sleep(ALLOWED * 2).await;
            all.leave(1);
            tokio::time::sleep(ALLOWED * 2).await;
            all.leave(2);
        };
        let waits = async {
            all.others_ended(0).await;
            begun.elapsed()
        };
        // Longer than a meeting may take: it is none.
        assert_eq!(tokio::join!(waits, ends).0, ALLOWED * 4);
        // Who has been left out is not waited for.
        let all = meetings(2);
        all.meet(0, "a".into()).await;
        all.others_ended(0).await;
        assert_eq!(begun.elapsed(), ALLOWED * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_others_has_time_left_to_end_in() {
        let all = meetings(2);
        let begun = tokio::time::Instant::now();
        all.others_ended(0).await;
        assert_eq!(begun.elapsed(), DEADLINE * 7 / 8);
    }

    #[tokio::test]
    async fn servers_do_not_wait_for_each_other() {
        let group = |port| Some(SnapshotGroup::new("p", "h", port, None));
        let all = Meetings::new(&[group(1), None, group(2), group(1)], ALLOWED, DEADLINE);
        assert_eq!([0, 1, 2, 3].map(|index| all.has(index)), [true, false, true, true]);
        assert_eq!(words(&all.meet(2, "c".into()).await), ["c"]);
        let (a, d) = tokio::join!(all.meet(0, "a".into()), all.meet(3, "d".into()));
        assert_eq!((words(&a), d.own), (vec!["a", "d"], 1));
    }
}
