//! What the server's catalog says of types and columns, and of names that may have been meant.

use std::collections::HashMap;

use portolan_model::Result;

use super::columns::{Facts, Type, is_built_in, oid};
use super::connection::Connection;
use super::statement::{Relation, literal};
use super::wire::Column;
use super::wire::messages::malformed;
use super::wire::reader::Malformed;

/// Names looked at for one that may have been meant.
const NAMES_MAX: usize = 2_000;

/// A row of an answer, whose values have to be there.
struct Row(Vec<Option<String>>);

impl Row {
    fn text(&self, index: usize) -> Result<&str> {
        let value = self.0.get(index).and_then(Option::as_deref);
        value.ok_or_else(|| malformed(Malformed("the catalog's answer lacks a value")))
    }

    fn number<T: std::str::FromStr>(&self, index: usize) -> Result<T> {
        self.text(index)?.parse().map_err(|_| malformed(Malformed("the catalog's answer is no number")))
    }
}

async fn ask(connection: &mut Connection, sql: &str) -> Result<Vec<Row>> {
    Ok(connection.query(sql).await?.into_iter().map(Row).collect())
}

/// What the catalog says of these columns.
pub(super) async fn facts(connection: &mut Connection, columns: &[Column]) -> Result<Facts> {
    let mut facts = Facts { money_scale: 2, ..Facts::default() };
    let mut unknown: Vec<u32> =
        columns.iter().map(|column| column.type_id).filter(|type_id| !is_built_in(*type_id)).collect();
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        facts.types = types(connection, &unknown).await?;
        let declared: Vec<String> = columns
            .iter()
            .filter(|column| column.table != 0 && matches!(facts.types.get(&column.type_id), Some(Type::Array { .. })))
            .map(|column| format!("({}, {})", column.table, column.attribute))
            .collect();
        if !declared.is_empty() {
            let sql = format!(
                "SELECT attrelid::int8, attnum FROM pg_catalog.pg_attribute \
                 WHERE attndims > 1 AND (attrelid::int8, attnum) IN ({})",
                declared.join(", ")
            );
            for row in ask(connection, &sql).await? {
                facts.arrays_of_dimensions.push((row.number(0)?, row.number(1)?));
            }
        }
    }
    if columns.iter().any(|column| column.type_id == oid::MONEY)
        || facts
            .types
            .values()
            .any(|known| matches!(known, Type::Composite(fields) if fields.iter().any(|field| field.1 == oid::MONEY)))
        || facts.types.values().any(|known| matches!(known, Type::Array { element: oid::MONEY }))
    {
        for row in ask(connection, "SELECT scale(0::money::numeric)").await? {
            facts.money_scale = row.number(0)?;
        }
    }
    Ok(facts)
}

async fn types(connection: &mut Connection, asked: &[u32]) -> Result<HashMap<u32, Type>> {
    let list = asked.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let known = format!(
        "WITH RECURSIVE known (oid) AS (SELECT unnest('{{{list}}}'::oid[]) UNION \
         SELECT part.oid FROM known JOIN pg_catalog.pg_type t ON t.oid = known.oid CROSS JOIN LATERAL ( \
           SELECT t.typelem WHERE t.typelem <> 0 \
           UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd' \
           UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) part (oid)) "
    );
    let mut types = HashMap::new();
    let sql = format!(
        "{known} SELECT t.oid, CASE WHEN t.typoutput = 'pg_catalog.array_out'::regproc THEN 'a' ELSE t.typtype::text END, \
         t.typelem, t.typbasetype, t.typtypmod FROM known JOIN pg_catalog.pg_type t ON t.oid = known.oid"
    );
    for row in ask(connection, &sql).await? {
        let known = match row.text(1)? {
            "a" => Type::Array { element: row.number(2)? },
            "e" => Type::Enum,
            "d" => Type::Domain { base: row.number(3)?, modifier: row.number(4)? },
            "c" => Type::Composite(Vec::new()),
            _ => Type::Other,
        };
        types.insert(row.number(0)?, known);
    }
    if types.values().any(|known| matches!(known, Type::Composite(_))) {
        let sql = format!(
            "{known} SELECT t.oid, a.attname, a.atttypid, a.atttypmod FROM known \
             JOIN pg_catalog.pg_type t ON t.oid = known.oid JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid \
             WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY t.oid, a.attnum"
        );
        for row in ask(connection, &sql).await? {
            if let Some(Type::Composite(fields)) = types.get_mut(&row.number(0)?) {
                fields.push((row.text(1)?.to_owned(), row.number(2)?, row.number(3)?));
            }
        }
    }
    Ok(types)
}

/// What a cursor column promises of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    /// An index of its own lets no two rows share one.
    pub(super) is_unique: bool,
    pub(super) is_nullable: bool,
}

/// What the table of a column promises of it: nothing where the rows of child tables are read with it, to which neither its
/// indexes nor, for sure, its constraints extend. A partitioned table's do.
pub(super) async fn promise(connection: &mut Connection, column: &Column) -> Result<Promise> {
    let (table, attribute) = (column.table, column.attribute);
    let sql = format!(
        "SELECT a.attnotnull, EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique \
         AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         WHERE a.attrelid = {table} AND a.attnum = {attribute} AND (c.relkind = 'p' OR NOT EXISTS \
         (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = a.attrelid))"
    );
    let rows = ask(connection, &sql).await?;
    let Some(row) = rows.first() else { return Ok(Promise { is_unique: false, is_nullable: true }) };
    Ok(Promise { is_unique: row.text(1)? == "t", is_nullable: row.text(0)? != "t" })
}

/// The columns of a table's primary key, in their order.
pub(super) async fn primary_key(connection: &mut Connection, columns: &[Column]) -> Result<Vec<String>> {
    let Some(table) = columns.iter().map(|column| column.table).find(|table| *table != 0) else {
        return Ok(Vec::new());
    };
    let sql = format!(
        "SELECT a.attname FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS part (attnum, place) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = part.attnum \
         WHERE i.indrelid = {table} AND i.indisprimary AND part.place <= i.indnkeyatts ORDER BY part.place"
    );
    ask(connection, &sql).await?.iter().map(|row| row.text(0).map(str::to_owned)).collect()
}

/// The name of a table that may have been meant where one is not there, as `schema.table`.
pub(super) async fn suggestion(connection: &mut Connection, relation: &Relation) -> Option<String> {
    let Relation::Table { schema, table } = relation else { return None };
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND (n.nspname = {schema} OR c.relname = {table}) \
         AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1, 2 LIMIT {NAMES_MAX}",
        schema = literal(schema),
        table = literal(table)
    );
    let rows = ask(connection, &sql).await.ok()?;
    let names = rows.iter().filter_map(|row| Some((row.text(0).ok()?, row.text(1).ok()?)));
    let distance = |name: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &table.to_lowercase());
    let (distance, schema, name) = names.map(|(schema, name)| (distance(name), schema, name)).min()?;
    (distance <= 1 + table.chars().count() / 4).then(|| format!("{schema}.{name}"))
}
