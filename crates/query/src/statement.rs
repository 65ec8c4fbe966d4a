//! From text to one statement that only reads, with one spelling for each name.
//!
//! Names without quotes are the same whatever their case, as in DuckDB, and keep the spelling of the column they
//! name (JSON fields are often `camelCase`). The planner compares exactly, so that is settled here, on the tokens.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::logical_expr::sqlparser::ast::Statement as Ast;
use datafusion::logical_expr::sqlparser::keywords::Keyword;
use datafusion::logical_expr::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::resolve::resolve_table_references;
use portolan_model::{Error, ErrorKind, Result};

use crate::asof::{self, Place};
use crate::dialect::Sql;
use crate::error;
use crate::names::{CATALOG, MAIN, Names};

/// How many operators of one kind, those that combine and those that compare, one statement may chain: both together
/// are what planning and running take on a 2 MiB stack.
const OPERATORS_MAX: usize = 500;

/// Reads the one statement of `text`, finds every table that it names, and says where in it as-of joins stand.
pub(crate) fn parse(text: &str, names: &Names) -> Result<(Statement, Vec<Place>)> {
    let Parsed { statement, words, places } = read(text, names)?;
    tables_exist(&statement, names, &words)?;
    Ok((statement, places))
}

/// The tables that `text` names, as (schema, table), without looking for them.
pub(crate) fn mentions(text: &str) -> Result<Vec<(Option<String>, String)>> {
    let Parsed { statement, .. } = read(text, &Names::default())?;
    let (references, _) = resolve_table_references(&statement, false).map_err(|cause| error::of_plan(cause, text))?;
    let parts = |reference: datafusion::common::TableReference| {
        (reference.schema().map(str::to_owned), reference.table().to_owned())
    };
    Ok(references.into_iter().map(parts).collect())
}

/// Where each word stands first, by its lower-case form, as (line, column).
type Words = BTreeMap<String, (u64, u64)>;

struct Parsed {
    statement: Statement,
    words: Words,
    places: Vec<Place>,
}

fn read(text: &str, names: &Names) -> Result<Parsed> {
    let dialect = Sql;
    let mut tokens = Tokenizer::new(&dialect, text)
        .tokenize_with_location()
        .map_err(|cause| error::of_syntax(&cause.to_string()))?;
    not_too_deep(&tokens)?;
    unify(&mut tokens, names);
    let words = words(&tokens);
    let (tokens, places) = asof::mark(with_plain_literals(tokens))?;
    let mut parser =
        DFParserBuilder::new(tokens).with_dialect(&dialect).build().map_err(|cause| error::of_plan(cause, text))?;
    let mut statements = parser.parse_statements().map_err(|cause| error::of_plan(cause, text))?;
    let Some(statement) = statements.pop_front() else {
        return Err(Error::new(ErrorKind::Configuration, "parse query", "there is no statement")
            .with_hint("try: select * from portolan.rounds order by round desc limit 10"));
    };
    if !statements.is_empty() {
        return Err(Error::new(ErrorKind::Configuration, "parse query", "there is more than one statement")
            .with_hint("give one query at a time"));
    }
    only_reads(&statement)?;
    Ok(Parsed { statement, words, places })
}

/// What an operator does in a chain of its kind.
enum Operator {
    Combines,
    Compares,
}

/// The operator that a token is, whichever the parser may know: every sign but brackets and separators is one.
fn operator(token: &Token) -> Option<Operator> {
    const SIGNS: &[u8] = b"=<>!~+-*/%|&^#@?:";
    const COMPARING: [&str; 9] = ["=", "==", "<>", "!=", "<", ">", "<=", ">=", "<=>"];
    match token {
        Token::Whitespace(_) => None,
        Token::Word(word) if word.quote_style.is_some() => None,
        Token::Word(word) => match word.keyword {
            Keyword::AND
            | Keyword::OR
            | Keyword::XOR
            | Keyword::NOT
            | Keyword::UNION
            | Keyword::EXCEPT
            | Keyword::INTERSECT
            | Keyword::JOIN
            | Keyword::CASE
            | Keyword::DIV => Some(Operator::Combines),
            Keyword::IS
            | Keyword::NOTNULL
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::SIMILAR
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::OVERLAPS
            | Keyword::MATCH
            | Keyword::MEMBER
            | Keyword::OPERATOR => Some(Operator::Compares),
            _ => None,
        },
        sign => {
            let text = sign.to_string();
            let is_sign = !text.is_empty() && text.bytes().all(|byte| SIGNS.contains(&byte));
            let compares = text.contains('~') || COMPARING.contains(&text.as_str());
            is_sign.then_some(if compares { Operator::Compares } else { Operator::Combines })
        }
    }
}

/// Refuses what would become a tree deeper than the stack: the parser bounds brackets, and each operator in a chain
/// is one level more. Lists (`in (…)`) and columns are not levels. Comparisons are counted by themselves: nearly always
/// they stand side by side between others and not in a chain.
fn not_too_deep(tokens: &[TokenWithSpan]) -> Result<()> {
    let (mut combines, mut compares) = (0, 0);
    for token in tokens {
        match operator(&token.token) {
            Some(Operator::Combines) => combines += 1,
            Some(Operator::Compares) => compares += 1,
            None => {}
        }
    }
    // A subscript of a subscript is a level, too.
    combines += tokens
        .windows(2)
        .filter(|pair| matches!((&pair[0].token, &pair[1].token), (Token::RBracket, Token::LBracket)))
        .count();
    let operators = combines.max(compares);
    if operators <= OPERATORS_MAX {
        return Ok(());
    }
    let message = format!("the statement chains {operators} operators, at most {OPERATORS_MAX} are accepted");
    Err(Error::new(ErrorKind::Limit, "parse query", message)
        .with_hint("a list stays flat: write `x in (1, 2, …)` instead of `x = 1 or x = 2 …`"))
}

/// Puts literals of DuckDB's that the engine does not know as such into words that it knows: a number with an exponent
/// is a float (the engine would read a decimal, which has no room for `1e300`), `e'…'` a text.
fn with_plain_literals(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut result = Vec::with_capacity(tokens.len());
    for token in tokens {
        match token.token {
            Token::Number(digits, _) if digits.contains(['e', 'E']) => {
                let word = Token::make_keyword;
                let text = Token::SingleQuotedString(digits.replace('_', ""));
                let cast = [word("CAST"), Token::LParen, text, word("AS"), word("DOUBLE"), Token::RParen];
                result.extend(cast.map(|part| TokenWithSpan { token: part, span: token.span }));
            }
            Token::EscapedStringLiteral(text) => {
                result.push(TokenWithSpan { token: Token::SingleQuotedString(text), span: token.span });
            }
            _ => result.push(token),
        }
    }
    result
}

/// The error for a statement that would change something.
pub(crate) fn refused(what: Option<&str>) -> Error {
    let what = what.map_or_else(|| "the statement".to_owned(), |what| format!("`{what}`"));
    Error::new(ErrorKind::Permission, "parse query", format!("{what} would change something, and queries only read"))
        .with_hint("SELECT, WITH, VALUES, EXPLAIN, SHOW and DESCRIBE are accepted")
}

fn only_reads(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Explain(explain) => only_reads(&explain.statement),
        Statement::Statement(ast) => match &**ast {
            Ast::Query(_)
            | Ast::ShowTables { .. }
            | Ast::ShowColumns { .. }
            | Ast::ShowVariable { .. }
            | Ast::ShowFunctions { .. }
            | Ast::ExplainTable { .. } => Ok(()),
            Ast::Explain { statement, .. } => only_reads(&Statement::Statement(statement.clone())),
            other => Err(refused(other.to_string().split_whitespace().next())),
        },
        other => Err(refused(other.to_string().split_whitespace().next())),
    }
}

fn words(tokens: &[TokenWithSpan]) -> Words {
    let mut places = BTreeMap::new();
    for token in tokens {
        if let Token::Word(word) = &token.token {
            let start = token.span.start;
            places.entry(word.value.to_lowercase()).or_insert((start.line, start.column));
        }
    }
    places
}

fn tables_exist(statement: &Statement, names: &Names, words: &Words) -> Result<()> {
    // What the reference walk cannot read, the planner reports.
    let Ok((references, _)) = resolve_table_references(statement, false) else { return Ok(()) };
    let known = names.tables();
    for reference in references {
        let schema = reference.schema().unwrap_or(MAIN);
        let other_catalog = reference.catalog().is_some_and(|catalog| catalog != CATALOG);
        if schema == "information_schema" {
            continue;
        }
        let exists = known.iter().any(|(s, t)| s == schema && t == reference.table());
        if !exists || other_catalog {
            let asked = reference.to_string();
            let place = words.get(&reference.table().to_lowercase());
            return Err(error::no_table(&asked, place.copied(), &known));
        }
    }
    Ok(())
}

/// Gives every name without quotes one spelling: that of the table or column it names, else that of its first
/// appearance.
fn unify(tokens: &mut [TokenWithSpan], names: &Names) {
    let mentioned: BTreeSet<String> = tokens
        .iter()
        .filter_map(|token| match &token.token {
            Token::Word(word) => Some(word.value.to_lowercase()),
            _ => None,
        })
        .collect();
    let mut spellings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (schema, table) in names.tables() {
        if !mentioned.contains(&table.to_lowercase()) {
            continue;
        }
        spellings.entry(table.to_lowercase()).or_default().insert(table.clone());
        let Some(provider) = names.table(&schema, &table) else { continue };
        for field in provider.schema().fields() {
            spellings.entry(field.name().to_lowercase()).or_default().insert(field.name().clone());
        }
    }
    for token in tokens {
        let Token::Word(word) = &mut token.token else { continue };
        if word.quote_style.is_some() {
            continue;
        }
        let known = spellings.entry(word.value.to_lowercase()).or_default();
        if known.is_empty() {
            known.insert(word.value.clone());
        }
        // Two columns that differ in case alone: what was written decides.
        if known.len() == 1
            && let Some(spelling) = known.first()
        {
            word.value.clone_from(spelling);
        }
    }
}
