//! CSV as in RFC 4180, lines ended by a line feed: NULL is an empty field, an empty text is `""`.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use portolan_model::Result;

use super::cell::{self, Form};
use super::target::{flush, put};
use super::{Flow, Options, Sink, Writer};

pub(super) fn open(sink: Sink, _: &Options) -> Box<dyn Writer> {
    Box::new(Csv { sink, line: String::new(), value: String::new() })
}

struct Csv {
    sink: Sink,
    line: String,
    value: String,
}

impl Writer for Csv {
    fn begin(&mut self, _: &str, schema: &SchemaRef) -> Result<()> {
        self.line.clear();
        for (place, field) in schema.fields().iter().enumerate() {
            if place > 0 {
                self.line.push(',');
            }
            field_text(field.name(), &mut self.line);
        }
        self.line.push('\n');
        put(&mut self.sink, &self.line)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Flow> {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            self.line.clear();
            for (place, (column, field)) in batch.columns().iter().zip(schema.fields()).enumerate() {
                if place > 0 {
                    self.line.push(',');
                }
                self.value.clear();
                if cell::write(column, field, row, &mut self.value)? != Form::Null {
                    field_text(&self.value, &mut self.line);
                } else if batch.num_columns() == 1 {
                    // An empty line is no row to many readers.
                    self.line.push_str("\"\"");
                }
            }
            self.line.push('\n');
            put(&mut self.sink, &self.line)?;
        }
        flush(&mut self.sink)?;
        Ok(Flow::More)
    }

    fn end(&mut self, _: bool) -> Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        flush(&mut self.sink)
    }
}

fn field_text(text: &str, out: &mut String) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        out.push_str(text);
        return;
    }
    out.push('"');
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}
