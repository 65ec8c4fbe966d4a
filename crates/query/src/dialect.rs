//! DuckDB's syntax without its arrow lambdas: `payload -> 'items'` is a path into JSON here, and would otherwise be read
//! as a function of `payload`.

use std::any::TypeId;

use datafusion::logical_expr::sqlparser::dialect::{Dialect, DuckDbDialect};

/// The dialect that `docs/query.md` describes.
#[derive(Debug)]
pub(crate) struct Sql;

/// Syntax that is accepted because DuckDB accepts it.
macro_rules! accepted {
    ($($syntax:ident),* $(,)?) => {
        $(fn $syntax(&self) -> bool {
            DuckDbDialect.$syntax()
        })*
    };
}

impl Dialect for Sql {
    fn dialect(&self) -> TypeId {
        TypeId::of::<DuckDbDialect>()
    }

    fn is_identifier_start(&self, character: char) -> bool {
        DuckDbDialect.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        DuckDbDialect.is_identifier_part(character)
    }

    fn supports_lambda_functions(&self) -> bool {
        false
    }

    // DuckDB has `e'a\nb'`, its dialect in the parser does not.
    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    accepted!(
        supports_trailing_commas,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        supports_bitwise_shift_operators,
        supports_named_fn_args_with_eq_operator,
        supports_named_fn_args_with_assignment_operator,
        supports_dictionary_syntax,
        support_map_literal_syntax,
        allow_extract_single_quotes,
        supports_explain_with_utility_options,
        supports_array_typedef_with_brackets,
        supports_from_first_select,
        supports_order_by_all,
        supports_select_wildcard_exclude,
        supports_select_wildcard_replace,
        supports_notnull_operator,
        supports_comma_separated_trim,
    );
}
