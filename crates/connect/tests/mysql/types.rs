//! Every column type, against the server's own text of each value.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Date32Type, Time64MicrosecondType, TimestampMicrosecondType};

use crate::engine::{Engine, with_arguments};
use crate::harness::{fresh, open, open_at, read, server};
use crate::relational::Dialect;
use crate::relational::types::{Case, civil, column, expected_quarantine, number_text, quarantined, table_of};

fn cases() -> Vec<Case> {
    use arrow::datatypes::TimeUnit::Microsecond;
    let utc = DataType::Timestamp(Microsecond, Some("UTC".into()));
    let naive = DataType::Timestamp(Microsecond, None);
    vec![
        ("tinyint", "c", DataType::Int8, &["-128", "127", "0"]),
        ("tinyint unsigned", "c", DataType::UInt8, &["0", "255"]),
        ("tinyint(1)", "c", DataType::Int8, &["2", "-128", "1"]),
        ("smallint", "c", DataType::Int16, &["-32768", "32767"]),
        ("smallint unsigned", "c", DataType::UInt16, &["65535"]),
        ("mediumint", "c", DataType::Int32, &["-8388608", "8388607"]),
        ("mediumint unsigned", "c", DataType::UInt32, &["16777215"]),
        ("int", "c", DataType::Int32, &["-2147483648", "2147483647"]),
        ("int unsigned", "c", DataType::UInt32, &["4294967295"]),
        ("int(6) zerofill", "c + 0", DataType::UInt32, &["42"]),
        ("bigint", "c", DataType::Int64, &["-9223372036854775808", "9223372036854775807"]),
        ("bigint unsigned", "c", DataType::UInt64, &["18446744073709551615", "0"]),
        ("float", "CAST(c AS DOUBLE)", DataType::Float32, &["-3.402823466e38", "1.17549435e-38", "0.1"]),
        ("double", "c", DataType::Float64, &["2.2250738585072014e-308", "-1.7976931348623157e308", "0.1"]),
        ("decimal(38,10)", "c", DataType::Decimal128(38, 10), &["-9999999999999999999999999999.9999999999", "0.1"]),
        (
            "decimal(65,30)",
            "c",
            DataType::Decimal256(65, 30),
            &[
                "-99999999999999999999999999999999999.999999999999999999999999999999",
                "0",
                "0.000000000000000000000000000001",
            ],
        ),
        ("decimal(39,0)", "c", DataType::Decimal256(39, 0), &["999999999999999999999999999999999999999"]),
        ("decimal(1,0)", "c", DataType::Decimal128(1, 0), &["-9", "0"]),
        ("decimal(5,5)", "c", DataType::Decimal128(5, 5), &["-0.99999", "0.00001"]),
        ("decimal(10,2) unsigned", "c", DataType::Decimal128(10, 2), &["99999999.99"]),
        ("decimal(10,2) zerofill", "c + 0", DataType::Decimal128(10, 2), &["1.5"]),
        ("bit(1)", "c + 0", DataType::Boolean, &["1", "0"]),
        ("bit(9)", "c + 0", DataType::UInt64, &["b'100000001'"]),
        ("bit(64)", "c + 0", DataType::UInt64, &["18446744073709551615", "1"]),
        ("date", "c", DataType::Date32, &["'0001-01-01'", "'9999-12-31'", "'1969-12-31'", "'2024-02-29'"]),
        ("datetime", "c", naive.clone(), &["'1000-01-01 00:00:00'", "'9999-12-31 23:59:59'"]),
        ("datetime(3)", "c", naive.clone(), &["'1969-12-31 23:59:59.999'"]),
        ("datetime(6)", "c", naive, &["'0001-01-01 00:00:00.000001'", "'9999-12-31 23:59:59.999999'"]),
        ("timestamp(6) null", "c", utc, &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07.999999'"]),
        ("time(6)", "c", DataType::Time64(Microsecond), &["'00:00:00'", "'23:59:59.999999'", "'12:00:00.5'"]),
        ("year", "c", DataType::Int16, &["1901", "2155", "0"]),
        ("char(4)", "HEX(c)", DataType::Utf8, &["'ab'", "''"]),
        ("varchar(80)", "HEX(c)", DataType::Utf8, &["'Zürich 東京 😀'", "'a\\tb\\nc\\\\'", "''"]),
        ("varchar(80) character set latin1", "HEX(CONVERT(c USING utf8mb4))", DataType::Utf8, &["'é€'"]),
        ("varchar(80) character set utf16", "HEX(CONVERT(c USING utf8mb4))", DataType::Utf8, &["'😀'"]),
        ("tinytext", "HEX(c)", DataType::Utf8, &["'x'"]),
        ("longtext", "HEX(c)", DataType::Utf8, &["REPEAT('long text ', 40000)"]),
        ("binary(4)", "HEX(c)", DataType::Binary, &["x'00ff'"]),
        ("varbinary(20)", "HEX(c)", DataType::Binary, &["x'deadbeef00'", "''"]),
        ("longblob", "HEX(c)", DataType::Binary, &["REPEAT(x'00ff', 40000)"]),
        ("enum('a','b c','ü')", "HEX(c)", DataType::Utf8, &["'b c'", "'ü'"]),
        ("set('a','b','c')", "HEX(c)", DataType::Utf8, &["'a,c'", "''"]),
        ("json", "HEX(c)", DataType::Utf8, &["'{\"a\": [1, 18446744073709551615]}'", "'null'"]),
        ("point", "HEX(c)", DataType::Binary, &["ST_GeomFromText('POINT(1.5 -2)', 4326)"]),
        ("uuid", "HEX(CAST(c AS CHAR))", DataType::Utf8, &["'123e4567-e89b-12d3-a456-426655440000'"]),
        ("inet6", "HEX(CAST(c AS CHAR))", DataType::Utf8, &["'2001:db8::ff00:42:8329'", "'::'"]),
    ]
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A value as the server would write it.
fn text_of(array: &ArrayRef, row: usize, sql_type: &str) -> String {
    if array.is_null(row) {
        return "NULL".into();
    }
    let fraction = match () {
        () if sql_type.contains("(6)") => "%.6f",
        () if sql_type.contains("(3)") => "%.3f",
        () => "",
    };
    if let Some(text) = number_text(array, row) {
        return if sql_type == "year" { format!("{text:0>4}") } else { text };
    }
    match array.data_type() {
        DataType::Boolean => u8::from(array.as_boolean().value(row)).to_string(),
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            civil(i64::from(days) * 86_400_000_000).strftime("%Y-%m-%d").to_string()
        }
        DataType::Timestamp(..) => {
            let value = array.as_primitive::<TimestampMicrosecondType>().value(row);
            civil(value).strftime(&format!("%Y-%m-%d %H:%M:%S{fraction}")).to_string()
        }
        DataType::Time64(_) => {
            let value = array.as_primitive::<Time64MicrosecondType>().value(row);
            civil(value).strftime(&format!("%H:%M:%S{fraction}")).to_string()
        }
        DataType::Utf8 => hexadecimal(array.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => hexadecimal(array.as_binary::<i32>().value(row)),
        other => panic!("unexpected type {other}"),
    }
}

#[tokio::test]
async fn every_type_equals_the_servers_own_text() {
    let (table, cases) = (fresh("types"), cases());
    let (sql, rows) = table_of(&cases, &table);
    server().sql(&format!("{} {sql}", Engine::MODE)).unwrap();
    let oracles: Vec<String> =
        cases.iter().enumerate().map(|(index, case)| case.1.replace('c', &column(index))).collect();
    let expected = server().sql(&format!("SELECT {} FROM {table} ORDER BY id", oracles.join(", "))).unwrap();
    let expected: Vec<Vec<&str>> = expected.lines().map(|line| line.split('\t').collect()).collect();

    let (recorder, end) = read(&mut open(&format!("table = \"{table}\"")), None).await.unwrap();
    assert_eq!(end.position, None);
    assert!(recorder.quarantined.is_empty(), "{:?}", recorder.quarantined);
    assert_eq!(recorder.rows(), rows);
    let batch = &recorder.batches[0];
    for (index, (sql_type, _, data_type, _)) in cases.iter().enumerate() {
        let array = batch.column_by_name(&column(index)).unwrap();
        assert_eq!(array.data_type(), data_type, "{sql_type}");
        for (row, expected) in expected.iter().enumerate() {
            let (found, expected) = (text_of(array, row, sql_type), expected[index]);
            match data_type {
                DataType::Float32 | DataType::Float64 if expected != "NULL" => {
                    assert_eq!(found.parse::<f64>().unwrap(), expected.parse::<f64>().unwrap(), "{sql_type} row {row}");
                }
                _ => assert_eq!(found, expected, "{sql_type} row {row}"),
            }
        }
    }
    let json = cases.iter().position(|case| case.0 == "json").unwrap();
    let field = batch.schema().field_with_name(&column(json)).unwrap().clone();
    assert_eq!(field.metadata().get("ARROW:extension:name").map(String::as_str), Some("arrow.json"));
}

#[tokio::test]
async fn what_no_calendar_knows_is_null_and_kept_in_the_quarantine() {
    let table = fresh("zero");
    server()
        .sql(&format!(
            "SET sql_mode = 'ALLOW_INVALID_DATES'; CREATE TABLE {table} (id bigint primary key, d date not null, \
             t datetime(3) not null, s timestamp not null default 0, x time(1) not null); \
             INSERT INTO {table} VALUES (7, 0, 0, 0, '838:59:59'), \
             (8, '2024-00-00', '2024-05-00 10:11:12.345', '2024-05-06 01:02:03', '-00:00:01.5'), \
             (9, '2023-02-31', '2023-02-30 23:59:59.999', '2024-05-06 01:02:03', '01:02:03')"
        ))
        .unwrap();
    let (recorder, _) = read(&mut open(&format!("table = \"{table}\"")), None).await.unwrap();
    let expected = [
        (7, "d", "zero_date", "0000-00-00"),
        (7, "t", "zero_date", "0000-00-00 00:00:00.000"),
        (7, "s", "zero_date", "0000-00-00 00:00:00"),
        (7, "x", "time_out_of_range", "838:59:59.0"),
        (8, "d", "partial_date", "2024-00-00"),
        (8, "t", "partial_date", "2024-05-00 10:11:12.345"),
        (8, "x", "time_out_of_range", "-00:00:01.5"),
        (9, "d", "invalid_date", "2023-02-31"),
        (9, "t", "invalid_date", "2023-02-30 23:59:59.999"),
    ];
    assert_eq!(quarantined(&recorder), expected_quarantine(&expected));
    assert_eq!(recorder.rows(), 3);
    assert!(recorder.batches[0].column_by_name("d").unwrap().is_null(0));

    let (recorder, _) =
        read(&mut open(&format!("table = \"{table}\"\ntime_as = \"microseconds\"")), None).await.unwrap();
    assert_eq!(recorder.integers("x"), [3_020_399_000_000, -1_500_000, 3_723_000_000]);
}

#[tokio::test]
async fn server_defaults_do_not_change_what_is_read() {
    let table = fresh("defaults");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (id bigint, at timestamp, name varchar(9)); SET time_zone = '+00:00'; \
             INSERT INTO {table} VALUES (1, '2024-01-01 00:00:00', 'é'), (2, '2024-01-01 00:00:00', 'é')"
        ))
        .unwrap();
    let own = with_arguments(&[
        "--default-time-zone=+05:30",
        "--sql-mode=ANSI",
        "--init-connect=SET NAMES latin1, sql_select_limit=1",
    ]);
    own.sql(
        "SET time_zone = '+00:00'; CREATE TABLE t (id bigint, at timestamp, name varchar(9)); \
         INSERT INTO t VALUES (1, '2024-01-01 00:00:00', 'é'), (2, '2024-01-01 00:00:00', 'é')",
    )
    .unwrap();
    let (here, _) = read(&mut open(&format!("table = \"{table}\"")), None).await.unwrap();
    let (there, _) = read(&mut open_at(own.port(), "table = \"t\""), None).await.unwrap();
    assert_eq!(here.batches, there.batches);
    assert_eq!(there.rows(), 2);
}

#[tokio::test]
async fn expressions_have_types_that_hold_their_values() {
    let table = fresh("sums");
    server()
        .sql(&format!(
            "CREATE TABLE {table} (d decimal(65,30), u bigint unsigned); INSERT INTO {table} VALUES \
             (99999999999999999999999999999999999.999999999999999999999999999999, 18446744073709551615), (-1, 1)"
        ))
        .unwrap();
    let expressions = [
        "sum(d)",
        "avg(d)",
        "sum(u)",
        "max(u)",
        "-99999.5",
        "1/3",
        "count(*)",
        "0.5 + sum(u)",
        "sum(u) * 1.000001",
        "max(u) - 1",
        "round(min(d), 2)",
        "cast(7.25 as decimal(4,2))",
        "case when 1 then 1.5 else 100 end",
    ];
    let columns: Vec<String> =
        expressions.iter().enumerate().map(|(index, expression)| format!("{expression} as c{index}")).collect();
    let sql = format!("select {} from {table} where u > 0", columns.join(", "));
    let expected = server().sql(&sql).unwrap();
    let (recorder, _) = read(&mut open(&format!("query = \"{sql}\"")), None).await.unwrap();
    assert_eq!(recorder.quarantined, []);
    for (index, expected) in expected.trim_end().split('\t').enumerate() {
        let array = recorder.batches[0].column(index);
        assert_eq!(text_of(array, 0, ""), expected, "{} as {}", expressions[index], array.data_type());
    }
}
