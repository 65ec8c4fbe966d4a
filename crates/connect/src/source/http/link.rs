//! The `Link` header (RFC 8288).

/// The most link values looked at in one header field.
const LINKS_MAX: usize = 64;

/// The target of the first link whose relation types include `relation`.
pub fn find_link<'h>(field: &'h str, relation: &str) -> Option<&'h str> {
    let mut rest = field;
    for _ in 0..LINKS_MAX {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (target, after) = rest.strip_prefix('<')?.split_once('>')?;
        let (is_wanted, after) = parameters(after, relation);
        if is_wanted {
            return Some(target.trim());
        }
        rest = after;
    }
    None
}

/// Walks over `; name=value` pairs up to the comma that ends the link. Only the first `rel` counts (section 3.3), and
/// a link with an `anchor` speaks of another resource (section 3.2).
fn parameters<'h>(mut rest: &'h str, relation: &str) -> (bool, &'h str) {
    let (mut relations, mut anchored) = (None, false);
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let Some(after) = rest.strip_prefix(';') else { break };
        let after = after.trim_start_matches([' ', '\t']);
        let name_end = after.find(['=', ';', ',', ' ', '\t']).unwrap_or(after.len());
        let (name, after) = after.split_at(name_end);
        let after = after.trim_start_matches([' ', '\t']);
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => parameter_value(after.trim_start_matches([' ', '\t'])),
            None => (String::new(), after),
        };
        if name.eq_ignore_ascii_case("rel") && relations.is_none() {
            relations = Some(value);
        } else if name.eq_ignore_ascii_case("anchor") {
            anchored = true;
        }
        rest = after;
    }
    let rest = rest.find(',').map_or("", |comma| &rest[comma + 1..]);
    let wanted = relations.is_some_and(|relations| {
        relations.split_ascii_whitespace().any(|candidate| candidate.eq_ignore_ascii_case(relation))
    });
    (wanted && !anchored, rest)
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_next_page() {
        let github = r#"<https://a.example/items?page=1>; rel="prev", <https://a.example/items?page=3>; rel="next""#;
        assert_eq!(find_link(github, "next"), Some("https://a.example/items?page=3"));
        assert_eq!(find_link("</a>;rel=next", "next"), Some("/a"));
        assert_eq!(find_link("</a,b>; title=\"x, y; rel=next\" ; REL = \"last NEXT\"", "next"), Some("/a,b"));
        assert_eq!(find_link("</a>; rel=prev; rel=next", "next"), None);
        assert_eq!(find_link("</a>; rel=next; anchor=\"/other\", </b>; rel=next", "next"), Some("/b"));
        assert_eq!(find_link("</a>; rel=\"nex\\t\"", "next"), Some("/a"));
        for none in ["", "nonsense", "<", "</a", "</a>", "</a>; rel", "</a>; rel=\"next2\"", ",,,"] {
            assert_eq!(find_link(none, "next"), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn no_field_panics(field in "[<>;,=\"\\\\a-e relnxt/é]{0,80}") {
            let _ = find_link(&field, "next");
        }
    }
}
