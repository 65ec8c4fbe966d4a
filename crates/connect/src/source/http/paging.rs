//! Paging as a state machine without I/O.
//!
//! Promise: it ends. A page met twice is an error, so is a server that ignores the page number, and no more than
//! `max_pages` are read in one round.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::options::{Pagination, PaginationKind};
use super::request::with_parameter;
use crate::format::RowPath;

/// Pages read in one round unless configured otherwise.
pub const PAGES_DEFAULT: u32 = 1_000;
/// The most pages that may be configured.
pub const PAGES_MAX: u32 = 100_000;
/// The longest token or target kept, in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Which page comes next; stored in the position when a round ends between pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextPage {
    /// The path and query that the server named.
    Target(String),
    /// The token that the server gave.
    Token(String),
    /// The number of a page or row.
    Number(u64),
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
    pages: u32,
    seen: HashSet<u64>,
    last_body: Option<u64>,
}

impl<'p> Pager<'p> {
    /// Begins at the first page, or where an earlier round ended.
    pub fn new(plan: &'p PagingPlan, resume: Option<NextPage>) -> Self {
        Self { plan, next: resume, pages: 0, seen: HashSet::new(), last_body: None }
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

    /// The page that comes next, to be stored.
    pub fn next_page(&self) -> Option<&NextPage> {
        self.next.as_ref()
    }

    /// Takes note of a page.
    ///
    /// # Errors
    /// Why the pages cannot go on: a loop, an unusable token.
    pub fn advance(&mut self, page: PageSeen<'_>) -> Result<Advance, String> {
        self.pages += 1;
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
            if !self.seen.insert(digest(&next)) || self.next.as_ref() == Some(&next) {
                return Err(format!("page {} leads back to a page already read", self.pages));
            }
        }
        self.next = Some(next);
        Ok(if self.pages >= self.plan.max_pages { Advance::Limit } else { Advance::More })
    }

    fn count_up(&mut self, page: &PageSeen<'_>) -> Result<Option<NextPage>, String> {
        if page.rows == 0 || self.plan.size.is_some_and(|size| page.rows < size) {
            return Ok(None);
        }
        let body = digest(&page.body);
        if self.last_body.replace(body) == Some(body) {
            return Err(format!(
                "page {} is the same as the one before: the server seems to ignore the parameter `{}`",
                self.pages, self.plan.parameter
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

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
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
        let mut pager = Pager::new(&plan, None);
        assert_eq!(pager.target("/a"), "/a?per_page=2&page=1");
        assert_eq!(pager.advance(seen(2, "x")), Ok(Advance::More));
        assert_eq!(pager.target("/a"), "/a?per_page=2&page=2");
        assert_eq!(pager.advance(seen(1, "y")), Ok(Advance::Done));
    }

    #[test]
    fn offsets_follow_the_rows_that_came() {
        let plan = plan("by = \"offset\"");
        let mut pager = Pager::new(&plan, None);
        assert_eq!(pager.target("/a?x=1"), "/a?x=1&offset=0");
        assert_eq!(pager.advance(seen(7, "x")), Ok(Advance::More));
        assert_eq!(pager.target("/a?x=1"), "/a?x=1&offset=7");
        assert!(pager.advance(seen(7, "x")).unwrap_err().contains("ignore"));
    }

    #[test]
    fn tokens_and_links_do_not_go_round_in_circles() {
        let plan = plan("by = \"cursor\"\nvalue = \"$.next\"\nmax_pages = 3");
        let token = |token: &str| PageSeen { token: Some(token.into()), ..PageSeen::default() };
        let mut pager = Pager::new(&plan, None);
        assert_eq!(pager.advance(token("a")), Ok(Advance::More));
        assert_eq!(pager.target("/x"), "/x?cursor=a");
        assert_eq!(pager.advance(token("b")), Ok(Advance::More));
        assert!(pager.clone().advance(token("a")).is_err());
        assert_eq!(pager.clone().advance(token("")), Ok(Advance::Done));
        assert_eq!(pager.advance(token("c")), Ok(Advance::Limit));
        let resumed = Pager::new(&plan, pager.next_page().cloned());
        assert_eq!(resumed.target("/x"), "/x?cursor=c");
    }

    proptest! {
        #[test]
        fn it_always_ends(
            kind in 0usize..4,
            pages in prop::collection::vec((0u64..5, any::<Option<u8>>(), any::<Option<u8>>(), any::<u8>()), 0..400),
        ) {
            let by = ["link", "cursor", "page", "offset"][kind];
            let plan = plan(&format!("by = {by:?}\nmax_pages = 50"));
            let mut pager = Pager::new(&plan, None);
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
