//! What is read may change between its preparation and the read, and its table may have children.

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use portolan_model::{ErrorKind, Retry};

use crate::harness::{Recorder, failure, fresh, open, read, server};

#[tokio::test]
async fn a_table_may_change_between_preparation_and_read() {
    // Nothing is taken for what it is not.
    let table = fresh("altered");
    server()
        .sql(&format!("CREATE TABLE {table} (id bigint primary key, v int); INSERT INTO {table} VALUES (1, 1)"))
        .unwrap();
    let mut source = open(&format!("table = \"{table}\""));
    for change in ["ALTER v TYPE real", "ADD COLUMN w int", "DROP COLUMN v"] {
        source.prepare().await.unwrap();
        server().sql(&format!("ALTER TABLE {table} {change}")).unwrap();
        let error = source.read(None, &mut Recorder::default()).await.err().unwrap();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Data, Retry::Transient), "{change}: {error:?}");
        assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 1, "{change}");
    }
    server().sql(&format!("DROP TABLE {table}")).unwrap();
    assert_eq!(failure(&mut source).await.kind(), ErrorKind::NotFound);
}

/// The names of the fields of the first row's column `v`, with their values.
fn fields(recorder: &Recorder) -> Vec<(String, i32)> {
    let array = recorder.batches[0].column_by_name("v").unwrap().as_struct().clone();
    let names = array.fields().iter().map(|field| field.name().clone());
    names.zip(array.columns().iter().map(|column| column.as_primitive::<Int32Type>().value(0))).collect()
}

#[tokio::test]
async fn fields_that_change_their_names_are_stored_under_the_new_ones() {
    let name = fresh("fields");
    server()
        .sql(&format!(
            "CREATE TYPE {name}_type AS (a int, b int); \
             CREATE TABLE {name} (id bigint primary key, v {name}_type); \
             INSERT INTO {name} SELECT n, ROW(1, 2)::{name}_type FROM generate_series(1, 3) n; \
             CREATE TABLE {name}_row (a int, b int); INSERT INTO {name}_row VALUES (1, 2)"
        ))
        .unwrap();
    let type_name = name.clone();
    let swap = move || {
        let rename = |from: &str, to: &str| {
            format!(
                "ALTER TYPE {type_name}_type RENAME ATTRIBUTE {from} TO {to}; \
                 ALTER TABLE {type_name}_row RENAME {from} TO {to};"
            )
        };
        server().sql(&[rename("a", "x"), rename("b", "a"), rename("x", "b")].concat()).unwrap();
    };
    let swapped = vec![("b".to_owned(), 1), ("a".to_owned(), 2)];
    for options in [
        format!("table = \"{name}\"\ncursor = \"id\"\nbatch_rows = 1"),
        format!("query = \"SELECT o AS v FROM {name}_row o\""),
        format!("query = \"SELECT ARRAY[v] AS w, v FROM {name}\""),
    ] {
        let mut source = open(&options);
        let before = read(&mut source, None).await.unwrap().0;
        assert_ne!(fields(&before), swapped, "{options}");
        swap();
        assert_eq!(fields(&read(&mut source, None).await.unwrap().0), swapped, "{options}");
        // After the preparation, also where the read ends early: what was handed on is not stored.
        for has_enough in [false, true] {
            source.prepare().await.unwrap();
            swap();
            let mut recorder = Recorder { has_enough, ..Recorder::default() };
            let error = source.read(None, &mut recorder).await.err().unwrap();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Data, Retry::Transient), "{options}: {error:?}");
        }
        assert_eq!(fields(&read(&mut source, None).await.unwrap().0), swapped, "{options}");
        swap();
    }
}

#[tokio::test]
async fn rows_of_child_tables_may_share_a_cursor_value() {
    let name = fresh("parent");
    server()
        .sql(&format!(
            "CREATE TABLE {name} (id bigint primary key, who text not null); \
             CREATE TABLE {name}_child () INHERITS ({name}); INSERT INTO {name} VALUES (1, 'a'), (2, 'b'); \
             CREATE TABLE {name}_parts (id bigint primary key) PARTITION BY RANGE (id); \
             CREATE TABLE {name}_part PARTITION OF {name}_parts FOR VALUES FROM (1) TO (9)"
        ))
        .unwrap();
    let mut source = open(&format!("table = \"{name}\"\ncursor = \"id\"\nkey = [\"id\", \"who\"]"));
    let (_, end) = read(&mut source, None).await.unwrap();
    server().sql(&format!("INSERT INTO {name}_child VALUES (2, 'late')")).unwrap();
    let (recorder, end) = read(&mut source, end.position.as_ref()).await.unwrap();
    assert!(recorder.texts("who").contains(&Some("late".into())), "{:?}", recorder.texts("who"));
    // Nor is a child bound to have a value at all.
    server()
        .sql(&format!("ALTER TABLE {name}_child ALTER id DROP NOT NULL; INSERT INTO {name}_child VALUES (NULL, 'x')"))
        .unwrap();
    let error = read(&mut source, end.position.as_ref()).await.err().unwrap();
    assert!(error.message().contains("NULL"), "{error:?}");
    // And without a key nothing tells its rows apart, while a partitioned table's index is one of all its rows.
    let error = failure(&mut open(&format!("table = \"{name}\"\ncursor = \"id\""))).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    read(&mut open(&format!("table = \"{name}_parts\"\ncursor = \"id\"")), None).await.unwrap();
}
