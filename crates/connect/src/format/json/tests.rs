//! What bodies become.

use portolan_model::source::QuarantineItem;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::format::RowPath;

struct Decoded {
    batches: Vec<RecordBatch>,
    quarantine: Vec<QuarantineItem>,
    summary: Summary,
}

impl Decoded {
    fn types(&self) -> Vec<String> {
        let json = |field: &arrow::datatypes::Field| field.metadata().values().any(|value| value == "arrow.json");
        let fields = self.batches.iter().flat_map(|batch| batch.schema().fields().iter().cloned().collect::<Vec<_>>());
        fields
            .map(|field| {
                let type_ = if json(&field) { "json".to_owned() } else { field.data_type().to_string() };
                format!("{} {type_}", field.name())
            })
            .collect()
    }

    fn table(&self) -> String {
        arrow::util::pretty::pretty_format_batches(&self.batches).unwrap().to_string()
    }
}

fn collect(decode: impl FnOnce(&mut Sink<'_>) -> Result<Summary>) -> Result<Decoded> {
    let (mut batches, mut quarantine) = (Vec::new(), Vec::new());
    let summary = decode(&mut |item| {
        match item {
            Item::Batch(batch) => batches.push(batch),
            Item::Quarantine(item) => quarantine.push(item),
        }
        Ok(())
    })?;
    Ok(Decoded { batches, quarantine, summary })
}

fn run(body: &str, settings: &Settings) -> Decoded {
    collect(|sink| decode(body.as_bytes(), settings, sink)).unwrap()
}

fn plain(body: &str) -> Decoded {
    run(body, &Settings::default())
}

#[test]
fn every_kind_of_column() {
    let body = r#"[
        {"b":true,"i":1,"u":18446744073709551615,"f":0.1,"t":"x","o":{"a":1,"n":null},"l":[1,2.5],"e":{},"z":null,"y":[]},
        {"b":null,"i":-9223372036854775808,"u":0,"f":3,"t":"é","o":{"b":"q"},"l":[],"e":{},"y":[null,{}]}
    ]"#;
    let decoded = plain(body);
    let expected = [
        "b Boolean",
        "i Int64",
        "u UInt64",
        "f Float64",
        "t Utf8",
        "o Struct(\"a\": Int64, \"b\": Utf8)",
        "l List(Float64)",
    ];
    assert_eq!(decoded.types(), expected);
    assert_eq!(decoded.summary.rows, 2);
    assert!(decoded.table().contains("-9223372036854775808 | 0 "), "{}", decoded.table());
}

#[test]
fn what_no_type_holds_becomes_json_text() {
    let body = r#"[
        {"a":1,"b":9007199254740993,"c":123456789012345678901234567890,"d":18446744073709551615,"e":{"x":1},"f":[1]},
        {"a":"n/a","b":0.5,"c":1,"d":-1,"e":"none","f":["x",{"y":1e400}]}
    ]"#;
    let decoded = plain(body);
    let expected = [
        "a json",
        "b json",
        "c json",
        "d json",
        "e json",
        "f List(Utf8, metadata: {\"ARROW:extension:name\": \"arrow.json\"})",
    ];
    assert_eq!(decoded.types()[..5], expected[..5]);
    let table = decoded.table();
    for text in ["9007199254740993", "123456789012345678901234567890", "\"n/a\"", "{\"x\":1}", "{\"y\":1e400}"] {
        assert!(table.contains(text), "{text}\n{table}");
    }
    assert!(decoded.quarantine.is_empty());
}

#[test]
fn rows_are_found_where_they_are() {
    let rows = |path: &str, body: &str| {
        let settings = Settings { rows: Some(RowPath::parse(path).unwrap()), ..Settings::default() };
        collect(|sink| decode(body.as_bytes(), &settings, sink)).map(|decoded| decoded.summary.rows)
    };
    let body =
        r#"{"meta":{"total":3,"data":[]},"data":[{"id":1},{"id":2},7],"map":{"a":{"v":1},"b":{"v":2}},"none":null}"#;
    assert_eq!(rows("$.data[*]", body).unwrap(), 3);
    assert_eq!(rows("$.data", body).unwrap(), 3);
    assert_eq!(rows("$.meta.data", body).unwrap(), 0);
    assert_eq!(rows("$.map.*", body).unwrap(), 2);
    assert_eq!(rows("$.map", body).unwrap(), 1);
    assert_eq!(rows("$.none", body).unwrap(), 0);
    assert_eq!(rows("$..v", body).unwrap(), 2);
    assert_eq!(rows("$.data[?@.id > 1]", body).unwrap(), 1);
    assert_eq!(rows("$['data'][0,1]", body).unwrap(), 2);
    assert_eq!(rows("$", "5").unwrap(), 1);
    let error = rows("$.rows[*]", body).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("$.rows"), "{error}");
    assert!(rows("$.data[*]", "{\"data\":[1,2").is_err());
    assert!(rows("$.data[*]", "{\"data\":[]} trailing").is_err());
}

#[test]
fn a_row_that_is_not_an_object_is_a_value() {
    assert_eq!(plain("[1,2,3]").types(), ["value Int64"]);
    assert_eq!(plain("\"x\"").types(), ["value Utf8"]);
    assert_eq!(plain("[{\"id\":1},\"x\"]").types(), ["id Int64", "value Utf8"]);
    let empty = plain("[{},{}]");
    assert_eq!((empty.summary.rows, empty.batches[0].num_rows(), empty.batches[0].num_columns()), (2, 2, 0));
    assert_eq!(plain("[]").batches.len(), 0);
    assert_eq!(plain("null").batches.len(), 0);
}

#[test]
fn configured_types_are_exact_or_quarantined() {
    let columns: std::collections::BTreeMap<String, ColumnType> =
        [("n", "decimal(10,2)"), ("at", "timestamptz"), ("raw", "json"), ("id", "varchar"), ("on", "boolean")]
            .into_iter()
            .map(|(name, type_)| (name.to_owned(), ColumnType::parse(type_).unwrap()))
            .collect();
    let settings = Settings { columns, identity: vec!["id".into()], ..Settings::default() };
    let body = r#"[{"id":1,"n":1.25,"at":"2026-01-02T03:04:05Z","raw":[1, {"a":2}],"on":true},
                   {"id":2,"n":1.255,"at":1,"raw":null,"on":"false"}]"#;
    let decoded = run(body, &settings);
    let types = ["id Utf8", "n Decimal128(10, 2)", "at Timestamp(µs, \"UTC\")", "raw json", "on Boolean"];
    assert_eq!(decoded.types(), types);
    let quarantined: Vec<_> = decoded
        .quarantine
        .iter()
        .map(|item| (item.column.as_deref(), item.row.clone(), item.content.as_str()))
        .collect();
    assert_eq!(quarantined, [(Some("n"), json!({"id":2}), "1.255"), (Some("at"), json!({"id":2}), "1")]);
}

#[test]
fn a_member_twice_keeps_the_last_and_says_so() {
    let decoded = plain(r#"[{"a":1,"A":2,"a":3}]"#);
    assert_eq!(decoded.types(), ["a Int64", "A Int64"]);
    assert!(decoded.table().contains("| 3 | 2 |"));
    assert_eq!((decoded.quarantine[0].reason, decoded.quarantine[0].content.as_str()), ("duplicate_member", "1"));
}

#[test]
fn bad_lines_do_not_take_the_good_ones_with_them() {
    let body = b"\xef\xbb\xbf{\"id\":1}\r\n\n{\"id\":\n\xff\n[1,2]\n{\"id\":9}";
    let settings = Settings { cursor: Some(RowPath::column("id")), ..Settings::default() };
    let decoded = collect(|sink| decode_lines(body, &settings, sink)).unwrap();
    assert_eq!(decoded.summary, Summary { rows: 3, cursor: Some(Cursor::Integer(9)) });
    let rows: Vec<_> = decoded.quarantine.iter().map(|item| item.row.clone()).collect();
    assert_eq!(rows, [json!(3), json!({ "row": 4, "bytes": 1 })]);
    assert_eq!(decoded.quarantine[1].content, "\\xff");
}

#[test]
fn large_bodies_come_in_batches_and_stay_wide() {
    let count = BATCH_ROWS + 10;
    let rows: Vec<String> =
        (0..count).map(|row| if row == 0 { "{\"v\":0.5}".into() } else { format!("{{\"v\":{row}}}") }).collect();
    let decoded = plain(&format!("[{}]", rows.join(",")));
    assert_eq!(decoded.types(), ["v Float64", "v Float64"]);
    assert_eq!(decoded.summary.rows, count as u64);
}

#[test]
fn rows_with_ever_new_names_are_split_and_one_row_with_too_many_is_refused() {
    let rows: Vec<String> = (0..COLUMNS_MAX * 2).map(|row| format!("{{\"k{row}\":1}}")).collect();
    let decoded = plain(&format!("[{}]", rows.join(",")));
    assert_eq!(decoded.summary.rows, COLUMNS_MAX as u64 * 2);
    let members: Vec<String> = (0..=COLUMNS_MAX).map(|index| format!("\"k{index}\":1")).collect();
    let body = format!("{{{}}}", members.join(","));
    let error = collect(|sink| decode(body.as_bytes(), &Settings::default(), sink)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn errors_say_where() {
    let error = collect(|sink| decode(b"<html>", &Settings::default(), sink)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("<html>"), "{error}");
    assert!(collect(|sink| decode(b"\"\xff\"", &Settings::default(), sink)).is_err());
    let settings = Settings { cursor: Some(RowPath::column("id")), ..Settings::default() };
    let error = collect(|sink| decode(b"[{\"id\":1},{\"id\":\"x\"}]", &settings, sink)).err().unwrap();
    assert!(error.message().contains("cursor"), "{error}");
}

#[test]
fn tokens_are_found() {
    let body = br#"{"a":[{"next":"wrong"}],"meta":{"next":"right","page":2,"o":{"x":1},"gone":null},"next":"top"}"#;
    let token = |path: &str| find(body, &RowPath::parse(path).unwrap()).unwrap().map(|node| node.to_compact());
    assert_eq!(token("$.meta.next").as_deref(), Some("\"right\""));
    assert_eq!(token("$.meta.page").as_deref(), Some("2"));
    assert_eq!(token("$.meta.o").as_deref(), Some("\"{\\\"x\\\":1}\""));
    assert_eq!(token("$.meta.gone").as_deref(), Some("null"));
    assert_eq!(token("$..next").as_deref(), Some("\"top\""));
    assert_eq!(token("$.meta.none.x"), None);
    assert_eq!(token("$.a.next"), None);
    assert!(find(b"{\"a\":", &RowPath::parse("$.b").unwrap()).is_err());
}

#[test]
fn an_earlier_body_widens_nothing() {
    let settings = Settings::default();
    assert_eq!(run(r#"[{"a":0.5,"b":{"c":"x"},"d":[1],"e":[1,"x"]}]"#, &settings).types()[0], "a Float64");
    let types = ["a Int64", "b Struct(\"c\": Int64)", "d List(Utf8)", "e List(Int64)"];
    assert_eq!(run(r#"[{"a":1,"b":{"c":2},"d":["x"],"e":[2]}]"#, &settings).types(), types);
}

#[test]
fn an_equal_schema_is_the_same_schema() {
    let settings = Settings::default();
    let body = r#"[{"a":0.5,"b":{"c":"x"},"d":[1]}]"#;
    let (first, second) = (run(body, &settings), run(body, &settings));
    assert!(Arc::ptr_eq(&first.batches[0].schema(), &second.batches[0].schema()));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|value| Value::from(f64::from(value) / 8.0)),
        "[a-zé\"\\\\\n]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[abAB]{1,2}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Whether `value` says something, as opposed to null and emptiness all the way down.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => items.iter().any(says_something),
        Value::Object(map) => map.values().any(says_something),
        _ => true,
    }
}

/// What the lake shows of `expected` must be what came, but for null and emptiness.
fn agrees(expected: &Value, shown: &Value) -> bool {
    match (expected, shown) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agrees(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(name, value)| agrees(value, b.get(name).unwrap_or(&Value::Null)))
                && b.iter().all(|(name, value)| a.contains_key(name) || !says_something(value))
        }
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64() && (a.is_f64() || b.is_f64() || a == b),
        // a column of mixed kinds is JSON text
        (a, Value::String(b)) if !matches!(a, Value::String(_)) || a != shown => {
            serde_json::from_str::<Value>(b).is_ok_and(|b| agrees(a, &b))
        }
        (a, b) if !says_something(a) && !says_something(b) => true,
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_value_is_lost(rows in prop::collection::vec(prop::collection::vec(("[abAB]{1,2}", any_value()), 0..4), 1..6)) {
        let rows: Vec<Value> = rows.into_iter().map(|members| Value::Object(members.into_iter().collect())).collect();
        let decoded = plain(&Value::from(rows.clone()).to_string());
        let mut writer = arrow::json::WriterBuilder::new().with_explicit_nulls(true).build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        for batch in decoded.batches.iter().filter(|batch| batch.num_columns() > 0) {
            writer.write(batch).unwrap();
        }
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        let shown: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        prop_assert_eq!(decoded.summary.rows, rows.len() as u64);
        if shown.is_empty() {
            prop_assert!(!rows.iter().any(says_something));
        } else {
            for (row, shown) in rows.iter().zip(&shown) {
                prop_assert!(agrees(row, shown), "{} became {}", row, shown);
            }
        }
    }

    #[test]
    fn the_body_before_changes_nothing(bodies in prop::collection::vec(prop::collection::vec(any_value(), 0..4), 2)) {
        let settings = Settings::default();
        for body in bodies {
            let body = Value::from(body).to_string();
            prop_assert_eq!(run(&body, &settings).batches, plain(&body).batches);
        }
    }

    #[test]
    fn columns_of_every_size_share_their_memory_or_not(
        lengths in prop::collection::vec((0usize..400, 0usize..8, any::<bool>()), 1..12),
    ) {
        let members = |(length, count, is_null): &(usize, usize, bool)| {
            let text = if *is_null { Value::Null } else { "é".repeat(*length).into() };
            json!({ "text": text, "numbers": (0..*count).collect::<Vec<_>>(), "number": length })
        };
        let rows: Vec<Value> = lengths.iter().map(members).collect();
        let decoded = plain(&Value::from(rows.clone()).to_string());
        let mut writer = arrow::json::WriterBuilder::new().with_explicit_nulls(true).build::<_, arrow::json::writer::JsonArray>(Vec::new());
        writer.write(&decoded.batches[0]).unwrap();
        writer.finish().unwrap();
        let shown: Vec<Value> = serde_json::from_slice(&writer.into_inner()).unwrap();
        prop_assert_eq!(shown.len(), rows.len());
        for (row, shown) in rows.iter().zip(&shown) {
            prop_assert!(agrees(row, shown), "{} became {}", row, shown);
        }
    }

    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = collect(|sink| decode(&body, &Settings::default(), sink));
        let _ = collect(|sink| decode_lines(&body, &Settings::default(), sink));
    }

    #[test]
    fn no_json_like_text_panics(body in "[\\[\\]{}\",:0-9eE.\\- ab\n]{0,80}", path in "\\$[.\\[\\]*ab0-9?@]{0,8}") {
        let settings = Settings { rows: RowPath::parse(&path).ok(), ..Settings::default() };
        let _ = collect(|sink| decode(body.as_bytes(), &settings, sink));
        let _ = collect(|sink| decode_lines(body.as_bytes(), &settings, sink));
    }
}
