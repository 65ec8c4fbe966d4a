//! What is found wrong with options before any connection is made.

use portolan_connect::Registry;
use portolan_model::config::{Diagnostic, read};

fn problems(keys: &str) -> (String, Vec<Diagnostic>) {
    let text = format!("[[source]]\nname = \"t\"\nhost = \"h\"\nport = 1\nprotocol = \"http\"\n{keys}\n");
    let found = read(&text, &Registry).err().unwrap_or_default();
    (text, found)
}

#[test]
fn every_mistake_is_found_with_its_place() {
    let cases = [
        ("path = \"api\"", "begin with `/`"),
        ("path = \"/a b\"", "cannot carry"),
        ("method = \"PUT\"", "PUT"),
        ("headers = { \"X Y\" = \"1\" }", "not a header name"),
        ("headers = { Host = \"x\" }", "set by the connector"),
        ("headers = { Authorization = \"Bearer x\" }", "is a secret"),
        ("headers = { X-A = \"a\\nb\" }", "cannot carry"),
        ("auth = { basic = { user = \"a:b\", password = { env = \"P\" } } }", "colon"),
        ("auth = { header = { name = \"a b\", value = { env = \"P\" } } }", "not a header name"),
        ("auth = { bearer = \"hunter2\" }", "does not stand in the configuration"),
        ("auth = { digest = {} }", "digest"),
        ("body = \"{}\"", "no effect on a GET"),
        ("rows = \"$[\"", "rows"),
        ("format = \"xml\"", "xml"),
        ("format = \"csv\"\nrows = \"$.a\"", "no effect"),
        ("format = \"json\"\ndelimiter = \";\"", "CSV alone"),
        ("delimiter = \"é\"", "ASCII"),
        ("max_body = \"2GiB\"", "max_body"),
        ("pagination = { by = \"seek\" }", "seek"),
        ("pagination = { by = \"cursor\" }", "needs `value`"),
        ("pagination = { by = \"link\", size = 5 }", "no effect"),
        ("pagination = { by = \"page\", size_parameter = \"n\" }", "without pagination.size"),
        ("pagination = { by = \"page\", max_pages = 0 }", "max_pages"),
        ("pagination = { by = \"link\" }\netag = true", "no effect"),
        ("cursor = { parameter = \"since\" }", "neither"),
        ("cursor = { parameter = \"since\", column = \"id\", value = \"$.x\" }", "both"),
        ("cursor = { parameter = \"since\", column = \"id\", late_window = 5 }", "without `key`"),
        ("cursor = { parameter = \"since\", column = \"id\", late_window = \"5 parsecs\" }\nkey = [\"id\"]", "parsecs"),
        (
            "cursor = { parameter = \"page\", column = \"id\" }\npagination = { by = \"page\" }",
            "also that of the pagination",
        ),
        ("cursor = { parameter = \"since\", column = \"id\" }\nmode = \"replace\"", "newest rows"),
        ("columns = { a = \"number\" }", "unknown type"),
        ("columns = { a = \"decimal(40,2)\" }", "unknown type"),
    ];
    for (keys, words) in cases {
        let (text, found) = problems(keys);
        let hit = found.iter().find(|problem| problem.message.contains(words));
        let hit = hit.unwrap_or_else(|| panic!("{keys}: no problem says {words:?}: {found:#?}"));
        let span = hit.span.clone().unwrap_or_else(|| panic!("{keys}: no place"));
        assert!(span.end <= text.len() && !span.is_empty(), "{keys}");
        assert!(!hit.message.contains("hunter2"), "{keys}: {hit:?}");
    }
}

#[test]
fn a_place_is_the_value_concerned() {
    let (text, found) = problems("path = \"api\"");
    assert_eq!(&text[found[0].span.clone().unwrap()], "\"api\"");
}

#[test]
fn the_example_is_right() {
    let text = include_str!("../../../../examples/http.toml");
    let configuration = read(text, &Registry).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(configuration.sources.len(), 5);
}

#[test]
fn every_option_is_documented() {
    use portolan_model::config::ConnectorSet;
    let page = include_str!("../../../../docs/connectors/http.md");
    let schema = Registry.get("http").unwrap().option_schema().to_value();
    let properties = schema["properties"].as_object().unwrap();
    assert!(properties.len() > 10);
    for (name, option) in properties {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in docs/connectors/http.md");
        assert!(option.to_string().contains("description"), "{name} has no description in the schema");
    }
}

#[test]
fn the_place_of_a_secret_header_is_not_shown() {
    for name in ["Authorization", "Private-Token", "X-Auth-Token", "X-Api-Key", "Api-Key"] {
        let (_, problems) = problems(&format!("headers = {{ {name} = \"hunter2\" }}"));
        assert!(
            problems.iter().any(|problem| problem.is_secret && !problem.message.contains("hunter2")),
            "{problems:?}"
        );
    }
}
