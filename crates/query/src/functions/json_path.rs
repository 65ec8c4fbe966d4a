//! Paths into JSON text: the part they lead to, as it is written, so that numbers keep their digits.

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A field of an object.
    Field(String),
    /// An element of an array; from its end where negative.
    Element(i64),
}

/// Reads `$.a."b c"[0]`, or a bare field name. `None` for what is not a path.
pub(super) fn parse(path: &str) -> Option<Vec<Step>> {
    let Some(mut rest) = path.strip_prefix('$') else {
        return Some(vec![Step::Field(path.to_owned())]);
    };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']')?;
            let index = index.strip_prefix('#').unwrap_or(index);
            steps.push(Step::Element(index.parse().ok()?));
            rest = after;
        } else if let Some(after) = rest.strip_prefix(".\"") {
            let (name, after) = after.split_once('"')?;
            steps.push(Step::Field(name.to_owned()));
            rest = after;
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            if end == 0 {
                return None;
            }
            steps.push(Step::Field(after[..end].to_owned()));
            rest = &after[end..];
        }
    }
    Some(steps)
}

/// The part of `json` that `steps` lead to; `None` where there is none or the text is not JSON on the way.
pub(super) fn find<'a>(json: &'a str, steps: &[Step]) -> Option<&'a str> {
    let mut part = json.trim();
    for step in steps {
        part = match step {
            Step::Field(name) => field(part, name)?,
            Step::Element(index) => element(part, *index)?,
        };
    }
    Some(part)
}

/// The last field of that name, as JSON readers take it.
fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = json.strip_prefix('{')?.trim_start();
    let mut found = None;
    while !rest.starts_with('}') {
        let key_end = value_end(rest)?;
        let key = rest.get(..key_end)?;
        rest = rest[key_end..].trim_start().strip_prefix(':')?.trim_start();
        let end = value_end(rest)?;
        if key.get(1..key.len().checked_sub(1)?) == Some(name)
            || serde_json::from_str::<String>(key).is_ok_and(|key| key == name)
        {
            found = Some(&rest[..end]);
        }
        rest = rest[end..].trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
    found
}

fn element(json: &str, index: i64) -> Option<&str> {
    let mut rest = json.strip_prefix('[')?.trim_start();
    let mut elements = Vec::new();
    while !rest.starts_with(']') {
        let end = value_end(rest)?;
        elements.push(&rest[..end]);
        if index >= 0 && elements.len() as i64 > index {
            break;
        }
        rest = rest[end..].trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with(']') => {}
            None => return None,
        }
    }
    let place = if index < 0 { elements.len() as i64 + index } else { index };
    elements.get(usize::try_from(place).ok()?).copied()
}

/// Where the value that `json` begins with ends, in bytes: brackets are counted, quotes respected.
fn value_end(json: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (place, byte) in json.bytes().enumerate() {
        if quoted {
            if !escaped && byte == b'"' {
                quoted = false;
                if depth == 0 {
                    return Some(place + 1);
                }
            }
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return (place > 0).then_some(place),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(place + 1);
                }
            }
            b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return (place > 0).then_some(place),
            _ => {}
        }
    }
    (depth == 0 && !quoted && !json.is_empty()).then_some(json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(json: &'a str, path: &str) -> Option<&'a str> {
        find(json, &parse(path)?)
    }

    #[test]
    fn leads_to_the_part_as_it_is_written() {
        let json =
            r#" {"a": {"b c": [1, 12345678901234567890.10, {"d": "x\"}]"}]}, "e": null, "é": true, "a\u0062": 1} "#;
        assert_eq!(get(json, "$.a.\"b c\"[1]"), Some("12345678901234567890.10"));
        assert_eq!(get(json, "$.a.\"b c\"[-1].d"), Some(r#""x\"}]""#));
        assert_eq!(get(json, "$.a.\"b c\"[3]"), None);
        assert_eq!(get(json, "$.a.\"b c\"[-9]"), None);
        assert_eq!(get(json, "e"), Some("null"));
        assert_eq!(get(json, "é"), Some("true"));
        assert_eq!(get(json, "ab"), Some("1"));
        assert_eq!(get(json, "$"), Some(json.trim()));
        assert_eq!(get(json, "nosuch"), None);
    }

    #[test]
    fn anything_that_is_not_json_leads_nowhere() {
        for json in [
            "",
            "{",
            "[",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{a:1}",
            "[1 2]",
            "{\"a\" 1}",
            "\"",
            "}",
            "]",
            "{\"a\":}",
            "é",
            "{\"é",
        ] {
            for path in ["$.a", "$[0]", "$[-1]", "a", "$.a[0].b"] {
                // Whatever is found in a broken text is part of it.
                assert!(get(json, path).is_none_or(|found| json.contains(found)), "{path} in {json}");
            }
        }
        for path in ["$a", "$.", "$..a", "$[", "$[x]", "$.\"a", "$[99999999999999999999]"] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
