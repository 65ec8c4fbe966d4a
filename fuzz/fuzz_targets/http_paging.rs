//! Any `Link` header and any run of pages: pages end, repeat themselves only as an error, and targets stay requests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::source::http::link::find_link;
use portolan_connect::source::http::options::{Pagination, PaginationKind};
use portolan_connect::source::http::paging::{Advance, NextPage, PageSeen, Pager, PagingPlan, Trail};

/// Pages offered at most; the plan allows fewer.
const PAGES: u32 = 64;

fuzz_target!(|input: (u8, Option<u64>, Option<u64>, String, Vec<(u64, String, Vec<u8>)>)| {
    let (kind, first, size, text, pages) = input;
    let _ = find_link(&text, "next");
    let by = match kind % 4 {
        0 => PaginationKind::Link,
        1 => PaginationKind::Cursor,
        2 => PaginationKind::Page,
        _ => PaginationKind::Offset,
    };
    let options = Pagination {
        by,
        parameter: (kind & 16 != 0).then(|| text.clone()),
        value: Some(if kind & 32 != 0 { text.clone() } else { "$.next".into() }),
        first,
        size_parameter: (kind & 64 != 0).then(|| "size".into()),
        size,
        max_pages: Some(PAGES / 2),
    };
    let Ok(plan) = PagingPlan::new(&options) else { return };
    let mut pager = Pager::new(&plan);
    let mut asked = 0;
    for (rows, token, body) in &pages {
        let target = pager.target("/items?fixed=1");
        assert!(!target.bytes().any(|byte| byte == b'\r' || byte == b'\n') || by == PaginationKind::Link);
        asked += 1;
        assert!(asked <= PAGES / 2, "more pages than the plan allows");
        let link = (by == PaginationKind::Link && !token.is_empty()).then(|| token.clone());
        let seen = PageSeen { rows: *rows, link, token: Some(token.clone()), body };
        match pager.advance(seen) {
            Ok(Advance::More) => {}
            Ok(Advance::Limit) => {
                // The next round goes on from what was stored.
                let (next, trail) = pager.place();
                let stored = serde_json::to_string(&(&next, trail)).expect("a place can be stored");
                let (read, trail): (Option<NextPage>, Trail) =
                    serde_json::from_str(&stored).expect("what was stored can be read");
                assert_eq!(next, read, "the place is stored as it is");
                let Some(next) = read else { panic!("a round that goes on has a next page") };
                pager = Pager::resume(&plan, next, trail);
                if rows % 3 == 0 {
                    pager.restart();
                }
                asked = 0;
            }
            Ok(Advance::Done) | Err(_) => break,
        }
    }
});
