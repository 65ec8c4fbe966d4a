//! Paging as a state machine without I/O.
//!
//! Promise: it ends. Pages that go round in a circle are an error, also where a circle takes several rounds, so is a server
//! that ignores the page number, no more than `max_pages` are read in one round, and a walk whose next page is refused
//! begins anew a bounded number of times without having come farther.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::fingerprint::hash;
use super::options::{Pagination, PaginationKind};
use super::request::with_parameter;
use crate::format::RowPath;

/// Pages read in one round unless configured otherwise.
pub const PAGES_DEFAULT: u32 = 1_000;
/// The most pages that may be configured.
pub const PAGES_MAX: u32 = 100_000;
/// How often in a row a walk begins anew, and ends between pages, though it has come no farther.
const RESTARTS_MAX: u32 = 3;
/// The longest token or target kept, in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Which page comes next; stored in the position when a round ends between pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextPage {
    /// The path and query that the server named.
    Target(String),
    /// The token that the server gave.
    Token(String),
    /// The number of a page or row.
    Number(u64),
}

/// What is kept of the pages behind, so that a circle is found though it takes several rounds: after Brent's method (BIT
/// 20, 1980), which remembers one page and needs at most three times the pages before and in the circle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trail {
    /// Pages since the first one.
    pages: u64,
    /// The hash of the token that came when their number was last a power of two.
    mark: Option<u64>,
    /// The hash of the last body, where pages are counted.
    body: Option<u64>,
    /// The most pages that an earlier walk had behind it when the server refused the next one.
    farthest: u64,
    /// How often in a row the walk has begun anew and not come farther.
    restarts: u32,
}

/// How pages follow each other.
#[derive(Clone, Debug)]
pub struct PagingPlan {
    kind: PaginationKind,
    parameter: String,
    first: u64,
    size_parameter: Option<String>,
    size: Option<u64>,
    max_pages: u32,
    /// Where the next token is in the body.
    pub token: Option<RowPath>,
}

impl PagingPlan {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// What is wrong with a path.
    pub fn new(options: &Pagination) -> Result<Self, String> {
        let (parameter, first) = match options.by {
            PaginationKind::Link => ("", 0),
            PaginationKind::Cursor => ("cursor", 0),
            PaginationKind::Page => ("page", 1),
            PaginationKind::Offset => ("offset", 0),
        };
        Ok(Self {
            kind: options.by,
            parameter: options.parameter.clone().unwrap_or_else(|| parameter.to_owned()),
            first: options.first.unwrap_or(first),
            size_parameter: options.size_parameter.clone(),
            size: options.size,
            max_pages: options.max_pages.unwrap_or(PAGES_DEFAULT).clamp(1, PAGES_MAX),
            token: options.value.as_deref().map(RowPath::parse).transpose()?,
        })
    }

    /// Whether the `Link` header is read.
    pub fn by_link(&self) -> bool {
        self.kind == PaginationKind::Link
    }
}

/// What a page showed.
#[derive(Clone, Debug, Default)]
pub struct PageSeen<'p> {
    /// Rows on it, those in the quarantine included.
    pub rows: u64,
    /// Path and query of the next page, by its `Link` header.
    pub link: Option<String>,
    /// The token of the next page, in its body.
    pub token: Option<String>,
    /// The body, to notice that the same page came again.
    pub body: &'p [u8],
}

/// What to do after a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// It was the last one.
    Done,
    /// Ask for [`Pager::target`].
    More,
    /// There are more, and the round has read as many as it may.
    Limit,
}

/// Walks through the pages of one read.
#[derive(Clone, Debug)]
pub struct Pager<'p> {
    plan: &'p PagingPlan,
    next: Option<NextPage>,
    trail: Trail,
    /// Pages of this round, and the hashes of their tokens.
    pages: u32,
    seen: HashSet<u64>,
}

impl<'p> Pager<'p> {
    /// Begins at the first page.
    pub fn new(plan: &'p PagingPlan) -> Self {
        Self { plan, next: None, trail: Trail::default(), pages: 0, seen: HashSet::new() }
    }

    /// Goes on where an earlier round ended.
    pub fn resume(plan: &'p PagingPlan, next: NextPage, trail: Trail) -> Self {
        Self { plan, next: Some(next), trail, pages: 0, seen: HashSet::new() }
    }

    /// Whether the page asked for is the one where an earlier round ended.
    pub fn is_resuming(&self) -> bool {
        self.pages == 0 && self.next.is_some()
    }

    /// Begins at the first page again, because the server refused the one where an earlier round ended.
    pub fn restart(&mut self) {
        let Trail { pages, farthest, restarts, .. } = self.trail;
        let restarts = if pages > farthest { 1 } else { restarts.saturating_add(1) };
        let trail = Trail { farthest: farthest.max(pages), restarts, ..Trail::default() };
        *self = Self { trail, ..Self::new(self.plan) };
    }

    /// Whether this walk has to reach its end in this round: the server has refused each of the last ones where it had
    /// ended between two pages, and none came farther than the one before.
    pub fn must_end(&self) -> bool {
        self.trail.restarts > RESTARTS_MAX
    }

    /// Whether this walk [must end](Self::must_end), and has come no farther than those before it.
    pub fn is_stuck(&self) -> bool {
        self.must_end() && self.trail.pages <= self.trail.farthest
    }

    /// Where the next page is; `base` is the path and query of the first.
    pub fn target(&self, base: &str) -> String {
        if let Some(NextPage::Target(target)) = &self.next {
            return target.clone();
        }
        let mut target = base.to_owned();
        if let (Some(parameter), Some(size)) = (&self.plan.size_parameter, self.plan.size) {
            target = with_parameter(&target, parameter, &size.to_string());
        }
        match (&self.next, self.plan.kind) {
            (Some(NextPage::Token(token)), _) => with_parameter(&target, &self.plan.parameter, token),
            (Some(NextPage::Number(number)), _) => with_parameter(&target, &self.plan.parameter, &number.to_string()),
            (None, PaginationKind::Page | PaginationKind::Offset) => {
                with_parameter(&target, &self.plan.parameter, &self.plan.first.to_string())
            }
            _ => target,
        }
    }

    /// The page that comes next, and the pages behind it, to be stored.
    pub fn place(&self) -> (Option<NextPage>, Trail) {
        (self.next.clone(), self.trail)
    }

    /// Takes note of a page.
    ///
    /// # Errors
    /// Why the pages cannot go on: a loop, an unusable token.
    pub fn advance(&mut self, page: PageSeen<'_>) -> Result<Advance, String> {
        self.pages += 1;
        self.trail.pages = self.trail.pages.saturating_add(1);
        let next = match self.plan.kind {
            PaginationKind::Link => page.link.map(NextPage::Target),
            PaginationKind::Cursor => page.token.filter(|token| !token.is_empty()).map(NextPage::Token),
            PaginationKind::Page | PaginationKind::Offset => self.count_up(&page)?,
        };
        let Some(next) = next else {
            self.next = None;
            return Ok(Advance::Done);
        };
        if let NextPage::Target(text) | NextPage::Token(text) = &next {
            if text.len() > TOKEN_BYTES_MAX {
                return Err(format!("the next page's token has more than {TOKEN_BYTES_MAX} bytes"));
            }
            let token = hash(&[text.as_bytes()]);
            if !self.seen.insert(token) || self.trail.mark == Some(token) || self.next.as_ref() == Some(&next) {
                return Err(format!("page {} leads back to a page already read", self.trail.pages));
            }
            if self.trail.pages.is_power_of_two() {
                self.trail.mark = Some(token);
            }
        }
        self.next = Some(next);
        Ok(if self.pages >= self.plan.max_pages { Advance::Limit } else { Advance::More })
    }

    fn count_up(&mut self, page: &PageSeen<'_>) -> Result<Option<NextPage>, String> {
        if page.rows == 0 || self.plan.size.is_some_and(|size| page.rows < size) {
            return Ok(None);
        }
        let body = hash(&[page.body]);
        if self.trail.body.replace(body) == Some(body) {
            return Err(format!(
                "page {} is the same as the one before: the server seems to ignore the parameter `{}`",
                self.trail.pages, self.plan.parameter
            ));
        }
        let current = match self.next {
            Some(NextPage::Number(number)) => number,
            _ => self.plan.first,
        };
        let step = if self.plan.kind == PaginationKind::Page { 1 } else { page.rows };
        let next = current.checked_add(step).ok_or("the page number has no successor")?;
        Ok(Some(NextPage::Number(next)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(text: &str) -> PagingPlan {
        let options: Pagination = portolan_model::config::OptionTable::from_text(text).unwrap().parse().unwrap();
        PagingPlan::new(&options).unwrap()
    }

    fn seen(rows: u64, body: &str) -> PageSeen<'_> {
        PageSeen { rows, body: body.as_bytes(), ..PageSeen::default() }
    }

    #[test]
    fn pages_count_up_until_a_short_one() {
        let plan = plan("by = \"page\"\nsize = 2\nsize_parameter = \"per_page\"");
        let mut pager = Pager::new(&plan);
        assert_eq!(pager.target("/a"), "/a?per_page=2&page=1");
        assert_eq!(pager.advance(seen(2, "x")), Ok(Advance::More));
        assert_eq!(pager.target("/a"), "/a?per_page=2&page=2");
        assert_eq!(pager.advance(seen(1, "y")), Ok(Advance::Done));
    }

    #[test]
    fn offsets_follow_the_rows_that_came() {
        let plan = plan("by = \"offset\"");
        let mut pager = Pager::new(&plan);
        assert_eq!(pager.target("/a?x=1"), "/a?x=1&offset=0");
        assert_eq!(pager.advance(seen(7, "x")), Ok(Advance::More));
        assert_eq!(pager.target("/a?x=1"), "/a?x=1&offset=7");
        assert!(pager.advance(seen(7, "x")).unwrap_err().contains("ignore"));
    }

    #[test]
    fn tokens_and_links_do_not_go_round_in_circles() {
        let plan = plan("by = \"cursor\"\nvalue = \"$.next\"\nmax_pages = 3");
        let token = |token: &str| PageSeen { token: Some(token.into()), ..PageSeen::default() };
        let mut pager = Pager::new(&plan);
        assert_eq!(pager.advance(token("a")), Ok(Advance::More));
        assert_eq!(pager.target("/x"), "/x?cursor=a");
        assert_eq!(pager.advance(token("b")), Ok(Advance::More));
        assert!(pager.clone().advance(token("a")).is_err());
        assert!(pager.clone().advance(token("b")).is_err());
        assert_eq!(pager.clone().advance(token("")), Ok(Advance::Done));
        assert_eq!(pager.advance(token("c")), Ok(Advance::Limit));
        let (next, trail) = pager.place();
        let resumed = Pager::resume(&plan, next.unwrap(), trail);
        assert!(resumed.is_resuming());
        assert_eq!(resumed.target("/x"), "/x?cursor=c");
    }

    /// The number of pages after which a circle of `length` pages, entered after `before` others, is found, where each
    /// round reads `round` pages.
    fn found_after(before: u64, length: u64, round: u32) -> Option<u64> {
        let plan = plan(&format!("by = \"cursor\"\nvalue = \"$.next\"\nmax_pages = {round}"));
        let mut pager = Pager::new(&plan);
        for page in 1..10_000 {
            let place = if page < before { page } else { before + (page - before) % length };
            let token = Some(format!("t{place}"));
            match pager.advance(PageSeen { token, ..PageSeen::default() }) {
                Err(_) => return Some(page),
                Ok(Advance::Limit) => {
                    // As stored and read again.
                    let (next, trail) = pager.place();
                    let trail = serde_json::from_str(&serde_json::to_string(&trail).unwrap()).unwrap();
                    pager = Pager::resume(&plan, next.unwrap(), trail);
                }
                Ok(_) => {}
            }
        }
        None
    }

    #[test]
    fn a_circle_is_found_however_many_rounds_it_takes() {
        for (before, length) in [(0, 1), (0, 2), (3, 2), (1, 7), (40, 60), (0, 200)] {
            for round in [1, 2, 3, 64, 1_000] {
                let found = found_after(before, length, round);
                let bound = 3 * (before + length) + 2;
                assert!(found.is_some_and(|pages| pages <= bound), "{before} {length} {round}: {found:?}");
            }
        }
    }

    #[test]
    fn a_server_that_ignores_the_number_is_found_in_the_next_round() {
        let plan = plan("by = \"page\"\nmax_pages = 1");
        let mut pager = Pager::new(&plan);
        assert_eq!(pager.advance(seen(2, "x")), Ok(Advance::Limit));
        let (next, trail) = pager.place();
        let mut pager = Pager::resume(&plan, next.unwrap(), trail);
        assert!(pager.advance(seen(2, "x")).unwrap_err().contains("ignore"));
    }

    #[test]
    fn a_walk_that_comes_no_farther_must_end_after_some_restarts() {
        let plan = plan("by = \"cursor\"\nvalue = \"$.next\"\nmax_pages = 100");
        // Each round reads so many pages, and the next one is refused.
        let must_end = |rounds: &[u32]| {
            let mut pager = Pager::new(&plan);
            for pages in rounds {
                for page in 0..*pages {
                    let token = Some(format!("t{page}"));
                    assert_eq!(pager.advance(PageSeen { token, ..PageSeen::default() }), Ok(Advance::More));
                }
                let (next, trail) = pager.place();
                pager = Pager::resume(&plan, next.unwrap(), trail);
                pager.restart();
                assert!(!pager.is_resuming());
            }
            pager.must_end()
        };
        assert!(!must_end(&[5, 5, 5]));
        assert!(must_end(&[5, 5, 5, 5]));
        assert!(must_end(&[5, 4, 3, 2]));
        assert!(!must_end(&[2, 2, 2, 3, 3, 3]), "it has come farther meanwhile");
    }

    proptest! {
        #[test]
        fn it_always_ends(
            kind in 0usize..4,
            pages in prop::collection::vec((0u64..5, any::<Option<u8>>(), any::<Option<u8>>(), any::<u8>()), 0..400),
        ) {
            let by = ["link", "cursor", "page", "offset"][kind];
            let plan = plan(&format!("by = {by:?}\nmax_pages = 50"));
            let mut pager = Pager::new(&plan);
            let mut count = 0;
            for (rows, link, token, body) in pages {
                let _ = pager.target("/base");
                count += 1;
                let page = PageSeen {
                    rows,
                    link: link.map(|link| format!("/{link}")),
                    token: token.map(|token| token.to_string()),
                    body: &[body],
                };
                match pager.advance(page) {
                    Ok(Advance::More) => {}
                    _ => break,
                }
            }
            prop_assert!(count <= 50);
        }
    }
}
