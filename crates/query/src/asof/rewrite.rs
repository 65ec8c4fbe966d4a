//! `ASOF` out of the tokens, a mark into the condition: what is left is an ordinary join.

use datafusion::logical_expr::sqlparser::keywords::Keyword;
use datafusion::logical_expr::sqlparser::tokenizer::{Token, TokenWithSpan};
use portolan_model::{Error, ErrorKind, Result};

/// The function that marks a condition.
pub(super) const MARK: &str = "__portolan_asof";
/// As-of joins in one statement: each is a few levels of the plan.
const JOINS_MAX: usize = 64;
const HINT: &str = "write: a ASOF [LEFT] JOIN b ON a.key = b.key AND a.time >= b.time";

/// Where an as-of join stands in the text; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// Takes each `ASOF` before a join out of `tokens` and marks the condition of the join; where each stood, by the number in
/// its mark.
///
/// # Errors
/// A join that is neither inner nor left, or has no `ON`, with its place.
pub(crate) fn mark(tokens: Vec<TokenWithSpan>) -> Result<(Vec<TokenWithSpan>, Vec<Place>)> {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|index| !matches!(tokens[*index].token, Token::Whitespace(_))).collect();
    let keyword = |place: usize| words.get(place).map_or(Keyword::NoKeyword, |index| keyword(&tokens[*index].token));
    let mut places = Vec::new();
    let mut changes = Vec::new();
    for place in 0..words.len() {
        if keyword(place) != Keyword::ASOF {
            continue;
        }
        let start = tokens[words[place]].span.start;
        let refused = |message: &str| {
            let message = format!("line {}, column {}: {message}", start.line, start.column);
            Err(Error::new(ErrorKind::Configuration, "parse query", message).with_hint(HINT))
        };
        let join = match (keyword(place + 1), keyword(place + 2), keyword(place + 3)) {
            (Keyword::JOIN, ..) => place + 1,
            (Keyword::INNER | Keyword::LEFT, Keyword::JOIN, _) => place + 2,
            (Keyword::LEFT, Keyword::OUTER, Keyword::JOIN) => place + 3,
            (Keyword::RIGHT | Keyword::FULL | Keyword::SEMI | Keyword::ANTI | Keyword::LEFT, ..) => {
                return refused("an as-of join is INNER or LEFT");
            }
            // A table or a column of that name.
            _ => continue,
        };
        let condition = match condition(&tokens, &words, join + 1) {
            Ok(condition) => condition,
            Err(message) => return refused(message),
        };
        if places.len() == JOINS_MAX {
            let message = format!("the statement has more than {JOINS_MAX} as-of joins");
            return Err(Error::new(ErrorKind::Limit, "parse query", message));
        }
        changes.push((words[place], words[condition], places.len()));
        places.push(Place { line: start.line, column: start.column });
    }
    if places.is_empty() {
        return Ok((tokens, places));
    }
    let mut result = Vec::with_capacity(tokens.len() + places.len() * 5);
    for (index, token) in tokens.into_iter().enumerate() {
        let span = token.span;
        if changes.iter().any(|(word, ..)| *word == index) {
            continue;
        }
        result.push(token);
        if let Some((.., number)) = changes.iter().find(|(_, condition, _)| *condition == index) {
            let number = Token::Number(number.to_string(), false);
            let mark = [Token::make_word(MARK, None), Token::LParen, number, Token::RParen, Token::make_keyword("AND")];
            result.extend(mark.map(|token| TokenWithSpan { token, span }));
        }
    }
    Ok((result, places))
}

fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// The place among `words` of the `ON` that belongs to a join whose table begins at `from`: joins without a condition of
/// their own yet come first.
fn condition(tokens: &[TokenWithSpan], words: &[usize], from: usize) -> std::result::Result<usize, &'static str> {
    const MISSING: &str = "an as-of join needs ON";
    let (mut depth, mut open) = (0_usize, 0_usize);
    for place in from..words.len() {
        let word = |place: usize| keyword(&tokens[words[place]].token);
        match &tokens[words[place]].token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return Err(MISSING),
            Token::RParen => depth -= 1,
            Token::SemiColon => return Err(MISSING),
            Token::Comma if depth == 0 => return Err(MISSING),
            _ if depth > 0 => {}
            _ => match word(place) {
                Keyword::JOIN if matches!(word(place - 1), Keyword::CROSS) => {}
                Keyword::JOIN => open += 1,
                Keyword::ON if open == 0 => return Ok(place),
                Keyword::USING if open == 0 => return Err("an as-of join with USING is not supported: write ON"),
                Keyword::MATCH_CONDITION => {
                    return Err("an as-of join has its inequality in ON, without MATCH_CONDITION");
                }
                Keyword::ON | Keyword::USING => open -= 1,
                Keyword::WHERE | Keyword::GROUP | Keyword::ORDER | Keyword::UNION | Keyword::HAVING => {
                    return Err(MISSING);
                }
                _ => {}
            },
        }
    }
    Err(MISSING)
}
