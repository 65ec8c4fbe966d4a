//! Every column type, against the server's own text of each value.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Date32Type, Time64MicrosecondType, TimestampMicrosecondType};

use crate::engine::{Engine, with_settings};
use crate::harness::{failure, fresh, open, open_at, read, server};
use crate::relational::Dialect;
use crate::relational::types::{Case, civil, column, expected_quarantine, number_text, quarantined, table_of};

const TEXT: &str = "c::text";
const SPAN: &str = "(extract(year from c) * 12 + extract(month from c))::int || ' ' || extract(day from c)::int || ' ' || \
                    ((extract(hour from c) * 3600 + extract(minute from c) * 60 + extract(second from c)) * 1000000)::int8";

/// Types of the test's own: a composite, one that holds what is text, an enum, domains.
const OWN_TYPES: &str = "CREATE TYPE pair AS (a int, \"b c\" text, d numeric(6,2)); CREATE TYPE mixed AS (a int, n inet); \
     CREATE TYPE nested AS (p pair, l bigint); CREATE TYPE mood AS ENUM ('sad', 'very happy', 'ü'); \
     CREATE DOMAIN positive AS numeric(9,3) CHECK (value > 0); CREATE DOMAIN words AS text[]; CREATE DOMAIN moods AS mood; \
     CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS ltree; \
     CREATE TYPE dropped AS (a int, gone text, b text); ALTER TYPE dropped DROP ATTRIBUTE gone";

fn list(item: DataType) -> DataType {
    DataType::new_list(item, true)
}

fn cases() -> Vec<Case> {
    use arrow::datatypes::TimeUnit::Microsecond;
    let utc = DataType::Timestamp(Microsecond, Some("UTC".into()));
    let naive = DataType::Timestamp(Microsecond, None);
    let fields = |fields: Vec<(&str, DataType)>| {
        DataType::Struct(
            fields.into_iter().map(|(name, kind)| arrow::datatypes::Field::new(name, kind, true)).collect(),
        )
    };
    let span = fields(vec![("months", DataType::Int32), ("days", DataType::Int32), ("microseconds", DataType::Int64)]);
    let pair = fields(vec![("a", DataType::Int32), ("b c", DataType::Utf8), ("d", DataType::Decimal128(6, 2))]);
    let text = || DataType::Utf8;
    vec![
        ("boolean", TEXT, DataType::Boolean, &["true", "false"]),
        ("smallint", TEXT, DataType::Int16, &["-32768", "32767", "0"]),
        ("integer", TEXT, DataType::Int32, &["-2147483648", "2147483647"]),
        ("bigint", TEXT, DataType::Int64, &["-9223372036854775808", "9223372036854775807"]),
        ("real", TEXT, DataType::Float32, &["'-3.4028235e38'", "'1.1754944e-38'", "0.1", "'NaN'", "'-Infinity'"]),
        (
            "double precision",
            TEXT,
            DataType::Float64,
            &["'2.2250738585072014e-308'", "0.1", "'NaN'", "'Infinity'", "'-0'"],
        ),
        (
            "numeric(38,10)",
            TEXT,
            DataType::Decimal128(38, 10),
            &["-9999999999999999999999999999.9999999999", "0.1", "0"],
        ),
        (
            "numeric(12,4)",
            TEXT,
            DataType::Decimal128(12, 4),
            &["-99999999.9999", "10000", "0.0001", "-0.1", "10000.0001"],
        ),
        ("numeric(38,38)", TEXT, DataType::Decimal128(38, 38), &["0.99999999999999999999999999999999999999"]),
        ("numeric(3,5)", TEXT, DataType::Decimal128(5, 5), &["0.00999", "-0.00001"]),
        ("numeric(2,-3)", TEXT, DataType::Decimal128(5, 0), &["99000", "-1000"]),
        (
            "numeric",
            TEXT,
            text(),
            &["1e100", "-0.00000000000000000000000000000000000000000000000001", "'NaN'", "'-Infinity'", "1.50"],
        ),
        ("numeric(39,2)", TEXT, text(), &["-9999999999999999999999999999999999999.99"]),
        (
            "money",
            "c::numeric::text",
            DataType::Decimal128(19, 2),
            &["'92233720368547758.07'", "'-92233720368547758.08'", "'0.01'"],
        ),
        ("text", TEXT, text(), &["'Zürich 東京 😀'", "E'a\\tb\\nc\\\\'", "''"]),
        ("varchar(80)", TEXT, text(), &["'x'"]),
        ("char(4)", "rpad(c, 4)", text(), &["'ab'", "''"]),
        ("name", TEXT, text(), &["'a name'"]),
        ("\"char\"", TEXT, text(), &["'x'", "''", "E'\\\\377'"]),
        ("citext", TEXT, text(), &["'Ab'"]),
        ("bytea", TEXT, DataType::Binary, &["'\\xdeadbeef00'", "''"]),
        ("date", TEXT, DataType::Date32, &["'0001-01-01'", "'9999-12-31'", "'1969-12-31'", "'2024-02-29'"]),
        ("time", TEXT, DataType::Time64(Microsecond), &["'00:00:00'", "'23:59:59.999999'", "'12:00:00.5'"]),
        ("timetz", TEXT, text(), &["'23:59:59.5+05:30'", "'24:00:00-12'"]),
        (
            "timestamp",
            TEXT,
            naive.clone(),
            &["'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.9'"],
        ),
        ("timestamptz", TEXT, utc, &["'1970-01-01 00:00:00+01:30'", "'9999-12-31 23:59:59.999999Z'"]),
        (
            "interval",
            SPAN,
            span,
            &["'1 year -2 mons 3 days -04:05:06.789'", "'178000000 years'", "'0'", "'-0.000001 s'"],
        ),
        ("uuid", TEXT, DataType::FixedSizeBinary(16), &["'123e4567-e89b-12d3-a456-426655440000'"]),
        ("json", TEXT, text(), &["'{\"a\":  [1, 18446744073709551615]}'", "'null'"]),
        ("jsonb", TEXT, text(), &["'{\"b\": 1e400, \"a\": \"ü\"}'", "'null'"]),
        ("xml", TEXT, text(), &["'<a b=\"c\">ü</a>'"]),
        ("bit(9)", TEXT, text(), &["B'100000001'"]),
        ("varbit", TEXT, text(), &["B'1'", "B''"]),
        ("inet", TEXT, text(), &["'192.168.0.1/24'", "'2001:db8::1'"]),
        ("cidr", TEXT, text(), &["'10.0.0.0/8'"]),
        ("macaddr", TEXT, text(), &["'08:00:2b:01:02:03'"]),
        ("macaddr8", TEXT, text(), &["'08:00:2b:01:02:03:04:05'"]),
        ("oid", TEXT, DataType::UInt32, &["4294967295", "0"]),
        ("regclass", TEXT, text(), &["'pg_class'"]),
        ("regtype", TEXT, text(), &["'timestamptz'"]),
        ("regproc", TEXT, text(), &["'now'"]),
        ("xid", TEXT, DataType::UInt32, &["'4294967295'"]),
        ("xid8", TEXT, DataType::UInt64, &["'18446744073709551615'"]),
        ("tid", TEXT, text(), &["'(1,2)'"]),
        ("pg_lsn", TEXT, text(), &["'16/B374D848'"]),
        ("mood", TEXT, text(), &["'very happy'", "'ü'"]),
        ("positive", TEXT, DataType::Decimal128(9, 3), &["1.5"]),
        ("moods", TEXT, text(), &["'sad'"]),
        ("point", TEXT, text(), &["'(1.5,-2)'"]),
        ("polygon", TEXT, text(), &["'((0,0),(1,1),(1,0))'"]),
        ("tsvector", TEXT, text(), &["'''a'':1 ''b'':2A'"]),
        ("tsquery", TEXT, text(), &["'a & b'"]),
        ("int4range", TEXT, text(), &["'[1,5)'", "'empty'", "'(,)'"]),
        ("tstzrange", TEXT, text(), &["'[2024-01-01 00:00:00+00,infinity)'"]),
        ("int8multirange", TEXT, text(), &["'{[1,3), [5,7)}'"]),
        ("hstore", TEXT, text(), &["'a=>1, \"b c\"=>NULL'"]),
        ("ltree", TEXT, text(), &["'a.b.c'"]),
        ("int[]", TEXT, list(DataType::Int32), &["'{1,NULL,-3}'", "'{}'", "'{NULL}'"]),
        ("bigint[]", TEXT, list(DataType::Int64), &["'{9223372036854775807}'"]),
        ("boolean[]", TEXT, list(DataType::Boolean), &["'{t,f,NULL}'"]),
        ("text[]", TEXT, list(text()), &["'{a,\"b c\",\"\",\"NULL\",NULL,\"q\\\"\\\\\"}'"]),
        ("words", TEXT, list(text()), &["'{a,b}'"]),
        ("mood[]", TEXT, list(text()), &["'{sad,\"very happy\"}'"]),
        ("numeric(6,2)[]", TEXT, list(DataType::Decimal128(6, 2)), &["'{1.50,-9999.99}'"]),
        ("numeric[]", TEXT, list(text()), &["'{1e50,NaN,1.50}'"]),
        ("timestamp[]", TEXT, list(naive), &["'{\"2024-01-01 00:00:00.5\"}'"]),
        ("inet[]", "c::text[]::text", list(text()), &["'{10.0.0.1,::1}'"]),
        ("int4range[]", TEXT, list(text()), &["'{\"[1,5)\",empty}'"]),
        ("pair", TEXT, pair.clone(), &["ROW(1, 'x y', 2.5)", "ROW(NULL, NULL, NULL)", "ROW(1, '', 0)"]),
        ("dropped", TEXT, fields(vec![("a", DataType::Int32), ("b", DataType::Utf8)]), &["ROW(1, 'x')"]),
        (
            "nested",
            TEXT,
            fields(vec![("p", pair.clone()), ("l", DataType::Int64)]),
            &["ROW(ROW(1, 'x', 2), 3)", "ROW(NULL, 3)"],
        ),
        ("mixed", TEXT, text(), &["ROW(1, '::1')"]),
        ("pair[]", TEXT, list(pair), &["ARRAY[ROW(1, 'x', 2), NULL]::pair[]"]),
        ("mixed[]", TEXT, list(text()), &["ARRAY[ROW(1, '::1')]::mixed[]"]),
        // Declared with several dimensions, or never a list: as the server writes it.
        ("int[][]", TEXT, text(), &["'{{1,2},{3,4}}'", "'{1}'", "'[0:1]={7,8}'"]),
        ("int2vector", TEXT, text(), &["'1 2'"]),
    ]
}

/// Text with a fraction as the server writes it: without zeros at the end.
fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn quoted(text: String, special: &[char]) -> String {
    let is_special = text.is_empty() || text.to_lowercase() == "null" && special.contains(&'{');
    if is_special || text.contains(|c: char| special.contains(&c) || c.is_whitespace()) {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', if special.contains(&'{') { "\\\"" } else { "\"\"" }))
    } else {
        text
    }
}

/// A value as the server would write it; NULL as `None`.
fn text_of(array: &ArrayRef, row: usize, is_part: bool) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    if let Some(text) = number_text(array, row) {
        return Some(text);
    }
    Some(match array.data_type() {
        DataType::Boolean if is_part => if array.as_boolean().value(row) { "t" } else { "f" }.to_owned(),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            civil(i64::from(days) * 86_400_000_000).strftime("%Y-%m-%d").to_string()
        }
        DataType::Timestamp(_, zone) => {
            let value = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let text = trimmed(civil(value).strftime("%Y-%m-%d %H:%M:%S.%6f").to_string());
            if zone.is_some() { text + "+00" } else { text }
        }
        DataType::Time64(_) => {
            let value = array.as_primitive::<Time64MicrosecondType>().value(row);
            trimmed(civil(value).strftime("%H:%M:%S.%6f").to_string())
        }
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Binary => {
            let bytes = array.as_binary::<i32>().value(row);
            format!("\\x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        DataType::FixedSizeBinary(16) => {
            let bytes = array.as_fixed_size_binary().value(row);
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let part = |index| text_of(&items, index, true).map(|text| quoted(text, &['{', '}', '"', ',', '\\']));
            let parts: Vec<_> = (0..items.len()).map(|index| part(index).unwrap_or("NULL".into())).collect();
            format!("{{{}}}", parts.join(","))
        }
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let parts = array.columns().iter().map(|column| text_of(column, row, true));
            if fields[0].name() == "months" {
                parts.map(|part| part.unwrap()).collect::<Vec<_>>().join(" ")
            } else {
                let special = ['(', ')', '"', ',', '\\'];
                let parts: Vec<_> =
                    parts.map(|part| part.map(|text| quoted(text, &special)).unwrap_or_default()).collect();
                format!("({})", parts.join(","))
            }
        }
        other => panic!("unexpected type {other}"),
    })
}

#[tokio::test]
async fn every_type_equals_the_servers_own_text() {
    let (table, cases) = (fresh("types"), cases());
    let schema = fresh("schema");
    let (sql, rows) = table_of(&cases, &table);
    server().sql(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}, public; {OWN_TYPES}; {sql}")).unwrap();
    let oracles: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(index, case)| {
            let words = case.1.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
            let name = column(index);
            let oracle: String = words
                .map(|word| {
                    if word.trim_end_matches([')', ':', ',', ' ']) == "c" {
                        word.replacen('c', &name, 1)
                    } else {
                        word.to_owned()
                    }
                })
                .collect();
            format!("coalesce(encode(convert_to(({oracle})::text, 'UTF8'), 'hex'), 'NULL')")
        })
        .collect();
    let sql = format!("SELECT {} FROM {schema}.{table} ORDER BY id", oracles.join(", "));
    let expected = server().sql(&sql).unwrap();
    let expected: Vec<Vec<&str>> = expected.lines().map(|line| line.split('\t').collect()).collect();

    let options = format!("schema = \"{schema}\"\ntable = \"{table}\"");
    let (recorder, end) = read(&mut open(&options), None).await.unwrap();
    assert_eq!(end.position, None);
    assert!(recorder.quarantined.is_empty(), "{:?}", recorder.quarantined);
    assert_eq!((recorder.rows(), expected.len()), (rows, rows));
    let batch = &recorder.batches[0];
    for (index, (sql_type, _, data_type, _)) in cases.iter().enumerate() {
        let array = batch.column_by_name(&column(index)).unwrap();
        assert!(array.data_type().equals_datatype(data_type), "{sql_type} is {}", array.data_type());
        for (row, expected) in expected.iter().enumerate() {
            let found = text_of(array, row, false);
            let expected = (expected[index] != "NULL").then(|| {
                let digits = expected[index];
                let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
                String::from_utf8(bytes.collect()).unwrap()
            });
            match (data_type, &found, &expected) {
                (DataType::Float32, Some(found), Some(expected)) => {
                    let (found, expected) = (found.parse::<f64>().unwrap() as f32, expected.parse::<f32>().unwrap());
                    assert!(
                        found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                        "{sql_type} row {row}"
                    );
                }
                (DataType::Float64, Some(found), Some(expected)) => {
                    let (found, expected) = (found.parse::<f64>().unwrap(), expected.parse::<f64>().unwrap());
                    assert!(
                        found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                        "{sql_type} row {row}"
                    );
                }
                _ => assert_eq!(found, expected, "{sql_type} row {row}"),
            }
        }
    }
    for (sql_type, extension) in [("json", "arrow.json"), ("jsonb", "arrow.json"), ("uuid", "arrow.uuid")] {
        let index = cases.iter().position(|case| case.0 == sql_type).unwrap();
        let field = batch.schema().field_with_name(&column(index)).unwrap().clone();
        assert_eq!(field.metadata().get("ARROW:extension:name").map(String::as_str), Some(extension));
    }
    // The same through a query, which tells no declared dimensions: a list, and what is none in the quarantine.
    let query = format!("query = \"select id, c{} as a from {schema}.{table} as t\"", cases.len() - 2);
    let (recorder, _) = read(&mut open(&query), None).await.unwrap();
    assert!(recorder.quarantined.is_empty(), "{:?}", recorder.quarantined);
}

#[tokio::test]
async fn what_no_calendar_and_no_list_knows_is_null_and_kept_in_the_quarantine() {
    let table = fresh("odd");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint primary key, d date, t timestamp, z timestamptz, x time, n numeric(6,2), \
             a int[], w timestamp[]); \
             INSERT INTO {table} VALUES (1, 'infinity', '-infinity', 'infinity', '24:00', 'NaN', '{{{{1,2}},{{3,4}}}}', '{{infinity}}'), \
             (2, '0044-03-15 BC', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999Z', null, 1, '[0:1]={{7,8}}', '{{}}'), \
             (3, '10000-01-01', '2024-01-01', '0001-12-31 23:59:59.5 BC', '1:00', 2, '{{5}}', '{{2024-01-01,0044-03-15 BC,-infinity}}')"
        ))
        .unwrap();
    let (recorder, _) = read(&mut open(&format!("table = \"{table}\"")), None).await.unwrap();
    let expected = [
        (1, "d", "infinite_date", "infinity"),
        (1, "t", "infinite_date", "-infinity"),
        (1, "z", "infinite_date", "infinity"),
        (1, "x", "time_out_of_range", "24:00:00"),
        (1, "n", "not_a_number", "NaN"),
        (1, "w", "infinite_date", "infinity"),
        (1, "a", "array_shape", "{{1,2},{3,4}}"),
        (2, "d", "date_out_of_range", "0044-03-15 BC"),
        (2, "t", "date_out_of_range", "4713-01-01 00:00:00 BC"),
        (2, "z", "date_out_of_range", "294276-12-31 23:59:59.999999+00"),
        (2, "a", "array_shape", "[0:1]={7,8}"),
        (3, "d", "date_out_of_range", "10000-01-01"),
        (3, "z", "date_out_of_range", "0001-12-31 23:59:59.5+00 BC"),
        (3, "w", "date_out_of_range", "0044-03-15 00:00:00 BC, -infinity"),
    ];
    assert_eq!(quarantined(&recorder), expected_quarantine(&expected));
    assert_eq!(recorder.rows(), 3);
    let batch = &recorder.batches[0];
    assert!(batch.column_by_name("d").unwrap().null_count() == 3);
    let lists = batch.column_by_name("a").unwrap();
    assert_eq!((text_of(lists, 0, false), text_of(lists, 2, false)), (None, Some("{5}".into())));
    let lists = batch.column_by_name("w").unwrap();
    assert_eq!(text_of(lists, 2, false).unwrap(), "{\"2024-01-01 00:00:00\",NULL,NULL}");
}

#[tokio::test]
async fn a_schema_may_be_called_anything() {
    let name = format!("{}\"'`; drop -- ü\\", fresh("s"));
    let quoted = Engine::quoted(&name);
    server()
        .sql(&format!(
            "CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} (id bigint primary key, v text[]); \
             INSERT INTO {quoted}.{quoted} VALUES (1, '{{x}}'), (2, null)"
        ))
        .unwrap();
    let mut source = open(&format!("schema = '''{name}'''\ntable = '''{name}'''\ncursor = \"id\""));
    let (recorder, end) = read(&mut source, None).await.unwrap();
    assert_eq!(recorder.integers("id"), [1, 2]);
    server().sql(&format!("INSERT INTO {quoted}.{quoted} VALUES (3, null)")).unwrap();
    let (recorder, _) = read(&mut source, end.position.as_ref()).await.unwrap();
    assert_eq!(recorder.integers("id"), [3]);
}

#[tokio::test]
async fn a_row_beyond_the_limit_is_said() {
    let error = failure(&mut open("query = \"select repeat('x', 140000000) as big\"")).await;
    assert_eq!(error.kind(), portolan_model::ErrorKind::Limit);
}

#[tokio::test]
async fn server_defaults_do_not_change_what_is_read() {
    let columns =
        "id bigint, at timestamptz, d date, i interval, b bytea, f real, m double precision, name text, x tstzrange";
    let values = "(1, '2024-01-01 00:00:00Z', '2024-02-01', '1 day 2 hours', decode('00ff', 'hex'), 0.1, 0.1, 'é', '[2024-01-01 00:00Z,)')";
    let table = fresh("defaults");
    server().sql(&format!("CREATE TABLE {table} ({columns}); INSERT INTO {table} VALUES {values}")).unwrap();
    let own = with_settings(&[
        "timezone=Asia/Kolkata",
        "DateStyle=German",
        "IntervalStyle=sql_standard",
        "bytea_output=escape",
        "extra_float_digits=-15",
        "standard_conforming_strings=off",
        "search_path=elsewhere",
        "client_encoding=LATIN1",
    ]);
    own.sql(&format!("CREATE TABLE public.t ({columns}); INSERT INTO public.t VALUES {values}")).unwrap();
    let text = ", at::text as at_text, i::text as i_text, b::text as b_text, m::text as m_text, \
                current_setting('max_parallel_workers_per_gather') as workers";
    let query = |table: &str| format!("query = \"select *{text} from public.{table}\"");
    let (here, _) = read(&mut open(&query(&table)), None).await.unwrap();
    let (there, _) = read(&mut open_at(own.port(), &query("t")), None).await.unwrap();
    assert_eq!(here.batches, there.batches);
    assert_eq!(there.rows(), 1);
    assert_eq!(there.texts("workers"), [Some("0".to_owned())]);
    let mut source = open_at(own.port(), "table = \"t\"\ncursor = \"name\"\nkey = [\"id\"]");
    let (_, end) = read(&mut source, None).await.unwrap();
    assert_eq!(read(&mut source, end.position.as_ref()).await.unwrap().0.rows(), 1);
}
