//! `json_extract` (`->`) and `json_extract_string` (`->>`), as in DuckDB: the path is a field name or `$.a[0].b`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::json_path::{Step, find, parse};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct JsonExtract {
    name: &'static str,
    /// Strings without quotes and `null` as NULL, instead of JSON.
    text: bool,
    aliases: Vec<String>,
    signature: Signature,
}

impl JsonExtract {
    pub(super) fn json() -> Self {
        Self {
            name: "json_extract",
            text: false,
            aliases: vec!["json_extract_path".into()],
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    pub(super) fn text() -> Self {
        Self {
            name: "json_extract_string",
            text: true,
            aliases: vec!["json_extract_path_text".into()],
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for JsonExtract {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> EngineResult<Vec<DataType>> {
        let [json, path] = types else { return plan_err!("{} takes JSON and a path", self.name) };
        if !json.is_string() && !json.is_null() {
            return plan_err!("{} takes JSON as text, not {json}", self.name);
        }
        let path = if path.is_integer() { DataType::Int64 } else { DataType::Utf8 };
        Ok(vec![DataType::Utf8, path])
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> EngineResult<FieldRef> {
        let field = Field::new(self.name, DataType::Utf8, true);
        let json = || HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]);
        Ok(Arc::new(if self.text { field } else { field.with_metadata(json()) }))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let [json, path] = &arrays[..] else { return exec_err!("{} takes JSON and a path", self.name) };
        let json = cast(json, &DataType::Utf8)?;
        let json = json.as_string::<i32>();
        let mut result = StringBuilder::with_capacity(json.len(), json.len() * 8);
        // A path is nearly always the same for every row: parsed once as long as it stays.
        let mut last: Option<(String, Vec<Step>)> = None;
        for row in 0..json.len() {
            if json.is_null(row) || path.is_null(row) {
                result.append_null();
                continue;
            }
            let part = match step(path, row) {
                Ok(element) => find(json.value(row), &[element]),
                Err(text) => {
                    if last.as_ref().is_none_or(|(known, _)| known != text) {
                        let Some(steps) = parse(text) else {
                            return exec_err!("{text:?} is not a JSON path: write a field name or $.a.b[0]");
                        };
                        last = Some((text.to_owned(), steps));
                    }
                    last.as_ref().and_then(|(_, steps)| find(json.value(row), steps))
                }
            };
            match part {
                None => result.append_null(),
                Some("null") if self.text => result.append_null(),
                Some(part) if self.text && part.starts_with('"') => {
                    result.append_option(serde_json::from_str::<String>(part).ok());
                }
                Some(part) => result.append_value(part),
            }
        }
        let result: ArrayRef = Arc::new(result.finish());
        Ok(ColumnarValue::Array(result))
    }
}

/// The path of a row: an element's number, or text.
fn step(path: &ArrayRef, row: usize) -> Result<Step, &str> {
    match path.as_primitive_opt::<Int64Type>() {
        Some(numbers) => Ok(Step::Element(numbers.value(row))),
        None => Err(path.as_string_opt::<i32>().map_or("", |texts| texts.value(row))),
    }
}
