//! What the demo asks of what it has collected.

/// A query and what it shows.
pub(crate) struct Question {
    pub(crate) title: &'static str,
    pub(crate) sql: String,
}

/// Tables that a query needs, its title, the query.
const QUERIES: [(&[&str], &str, &str); 5] = [
    (
        &[],
        "The latest rounds: release spread, bound on the skew, duration against the slowest port",
        "select r.round, r.verdict, r.release_spread_us as spread_us, r.skew_bound_us as bound_us,
         round(r.duration_us / 1000.0, 2) as round_ms, round(max(p.last_byte_us) / 1000.0, 2) as slowest_port_ms
  from portolan.rounds r join portolan.receipts p on p.round = r.round
  group by r.round, r.verdict, r.release_spread_us, r.skew_bound_us, r.duration_us order by r.round desc limit 4",
    ),
    (
        &["orders", "metrics"],
        "Two ports in one join: pieces ordered a machine, beside its load in the same round",
        "select o.machine, sum(o.pieces) as pieces, sum(o.pieces * o.price) as value,
         round(avg(m.load_percent), 1) as load_percent
  from orders o join metrics m on m.machine = o.machine and m._round = o._round
  group by o.machine order by value desc",
    ),
    (
        &["orders", "customers"],
        "Three ports, two protocols: what each customer ordered against the credit in MariaDB",
        "select c.name, count(*) as orders, sum(o.pieces * o.price) as value, c.credit
  from orders o join customers c on c.id = o.customer_id
  group by c.name, c.credit order by value desc limit 3",
    ),
    (
        &["vibration", "alarms", "inspections"],
        "A device, Redis and FTP: what each machine sent, how often it raised an alarm, what was found wrong with its work",
        "select v.machine, v.messages, v.peak_um, a.alarms, a.worst, i.inspected, i.scrap
  from (select machine, count(*) as messages, max(micrometres) as peak_um from vibration group by machine) v
  left join (select machine, count(*) as alarms, max(severity) as worst from alarms group by machine) a
       on a.machine = v.machine
  left join (select machine, sum(inspected) as inspected, sum(scrap) as scrap from inspections group by machine) i
       on i.machine = v.machine
  order by v.machine",
    ),
    (
        &["vibration", "metrics"],
        "A device that sends beside an API that is asked: messages of each round beside the load in it",
        "select m._round as round, m.machine, count(v.number) as messages, max(v.micrometres) as peak_um, m.load_percent
  from metrics m left join vibration v on v.machine = m.machine and v._round = m._round
  where m.machine = 'press_1' group by m._round, m.machine, m.load_percent order by round desc limit 3",
    ),
];

/// Tables whose rows are numbered without a gap, and the column that numbers them.
const NUMBERED: [(&str, &str); 4] =
    [("orders", "id"), ("vibration", "number"), ("alarms", "number"), ("inspections", "number")];

/// What can be asked where these tables are there: a port may have been left out, or have had nothing to say yet.
pub(crate) fn of(tables: &[&str]) -> Vec<Question> {
    let mut questions: Vec<Question> = QUERIES
        .iter()
        .filter(|(needed, ..)| needed.iter().all(|table| tables.contains(table)))
        .map(|(_, title, sql)| Question { title, sql: (*sql).to_owned() })
        .collect();
    let counted: Vec<String> = NUMBERED
        .iter()
        .filter(|(table, _)| tables.contains(table))
        .map(|(table, column)| {
            format!(
                "select '{table}' as source, count(*) as rows, count(distinct {column}) as distinct_numbers, \
                 min({column}) as first, max({column}) as last from {table}"
            )
        })
        .collect();
    if !counted.is_empty() {
        let title = "Nothing twice, nothing lost: numbers that rise without a gap";
        questions.push(Question { title, sql: counted.join("\n  union all ") });
    }
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_asked_where_its_tables_are_there() {
        let all = ["metrics", "orders", "vibration", "customers", "alarms", "inspections"];
        assert_eq!(of(&all).len(), QUERIES.len() + 1);
        let without_servers = of(&all[..3]);
        assert_eq!(without_servers.len(), 4);
        assert!(without_servers.iter().all(|question| !question.sql.contains("alarms")));
        assert_eq!(of(&[]).len(), 1);
    }
}
