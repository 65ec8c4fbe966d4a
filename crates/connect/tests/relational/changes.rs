//! What is read may change its shape while its connection is kept.

use portolan_model::{ErrorKind, Retry};

use super::Dialect;
use crate::engine::Engine;
use crate::harness::{failure, fresh, open, read, server};

#[tokio::test]
async fn a_table_may_change_between_rounds() {
    let table = fresh("altered");
    server()
        .sql(&format!("CREATE TABLE {table} (id bigint primary key, v int); INSERT INTO {table} VALUES (1, 1)"))
        .unwrap();
    let mut source = open(&format!("table = \"{table}\"\ncursor = \"id\""));
    let (_, end) = read(&mut source, None).await.unwrap();
    server()
        .sql(&format!(
            "ALTER TABLE {table} ADD COLUMN w bigint {}; ALTER TABLE {table} DROP COLUMN v; \
             INSERT INTO {table} (w, id) VALUES (7, 2)",
            Engine::FIRST
        ))
        .unwrap();
    let (recorder, end) = read(&mut source, end.position.as_ref()).await.unwrap();
    assert_eq!((recorder.integers("w"), recorder.integers("id")), (vec![7], vec![2]));
    server().sql(&format!("ALTER TABLE {table} {}", Engine::retyped_id("varchar(20)"))).unwrap();
    if Engine::LEARNS_TYPES_LATE {
        let error = read(&mut source, end.position.as_ref()).await.err().unwrap();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Data, Retry::Transient), "{error:?}");
    }
    let error = read(&mut source, end.position.as_ref()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "the position is of another kind: {error:?}");
    server().sql(&format!("DROP TABLE {table}")).unwrap();
    assert_eq!(failure(&mut source).await.kind(), ErrorKind::NotFound);
}
