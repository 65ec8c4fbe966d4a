//! The `Link` header (RFC 8288).

/// The most link values looked at in one header field.
const LINKS_MAX: usize = 64;

/// The target of the first link whose relation types include `relation`; `None` if the field names no such link.
///
/// # Errors
/// What cannot be read of the field: whether a link follows is not known then.
pub fn find_link<'h>(field: &'h str, relation: &str) -> Result<Option<&'h str>, String> {
    let mut rest = field;
    for _ in 0..LINKS_MAX {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(None);
        }
        let Some((target, after)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>')) else {
            return Err(format!("no `<target>` at byte {}", field.len() - rest.len()));
        };
        let (is_wanted, after) = parameters(after, relation)?;
        if is_wanted {
            return Ok(Some(target.trim()));
        }
        rest = after;
    }
    Err(format!("more than {LINKS_MAX} links"))
}

/// Walks over `; name=value` pairs up to the comma that ends the link. Only the first `rel` counts (section 3.3), and
/// a link with an `anchor` speaks of another resource (section 3.2).
fn parameters<'h>(mut rest: &'h str, relation: &str) -> Result<(bool, &'h str), String> {
    let (mut relations, mut anchored) = (None, false);
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let Some(after) = rest.strip_prefix(';') else { break };
        let after = after.trim_start_matches([' ', '\t']);
        let name_end = after.find(['=', ';', ',', ' ', '\t']).unwrap_or(after.len());
        let (name, after) = after.split_at(name_end);
        let after = after.trim_start_matches([' ', '\t']);
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => parameter_value(after.trim_start_matches([' ', '\t']))?,
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
    Ok((wanted && !anchored, rest))
}

fn parameter_value(text: &str) -> Result<(String, &str), String> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t']).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &quoted[index + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    Err("a quotation mark is not closed".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_next_page() {
        let github = r#"<https://a.example/items?page=1>; rel="prev", <https://a.example/items?page=3>; rel="next""#;
        assert_eq!(find_link(github, "next"), Ok(Some("https://a.example/items?page=3")));
        assert_eq!(find_link("</a>;rel=next", "next"), Ok(Some("/a")));
        assert_eq!(find_link("</a,b>; title=\"x, y; rel=next\" ; REL = \"last NEXT\"", "next"), Ok(Some("/a,b")));
        assert_eq!(find_link("</a>; rel=prev; rel=next", "next"), Ok(None));
        assert_eq!(find_link("</a>; rel=next; anchor=\"/other\", </b>; rel=next", "next"), Ok(Some("/b")));
        assert_eq!(find_link("</a>; rel=\"nex\\t\"", "next"), Ok(Some("/a")));
        for none in ["", "</a>", "</a>; rel", "</a>; rel=\"next2\"", ",,,"] {
            assert_eq!(find_link(none, "next"), Ok(None), "{none}");
        }
        for bad in ["nonsense", "<", "</a", "</a>; rel=prev, /b; rel=next", "</a>; title=\"x; rel=next"] {
            assert!(find_link(bad, "next").is_err(), "{bad}");
        }
        assert!(find_link(&"</a>; rel=prev,".repeat(65), "next").is_err());
    }

    proptest! {
        #[test]
        fn no_field_panics(field in "[<>;,=\"\\\\a-e relnxt/é]{0,80}") {
            let _ = find_link(&field, "next");
        }
    }
}
