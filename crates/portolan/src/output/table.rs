//! Aligned columns for people. Shows the first rows and says so when there are more; control characters in values
//! are shown as escapes, so that data cannot steer a terminal.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use comfy_table::{CellAlignment, ContentArrangement, Table as Lines, presets};
use portolan_model::Result;

use super::cell::{self, Form};
use super::target::{flush, put};
use super::{Flow, Options, Sink, Writer};

pub(super) fn open(sink: Sink, options: &Options) -> Box<dyn Writer> {
    Box::new(Table { sink, options: options.clone(), results: 0, shown: 0, lines: Lines::new() })
}

struct Table {
    sink: Sink,
    options: Options,
    results: usize,
    shown: usize,
    lines: Lines,
}

impl Writer for Table {
    fn begin(&mut self, name: &str, schema: &SchemaRef) -> Result<()> {
        self.shown = 0;
        self.lines = Lines::new();
        self.lines.load_preset(presets::UTF8_FULL_CONDENSED);
        if let Some(width) = self.options.line_width_max {
            self.lines.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        let names = schema.fields().iter().map(|field| visible(field.name(), self.options.value_width_max));
        self.lines.set_header(names.collect::<Vec<_>>());
        for (place, field) in schema.fields().iter().enumerate() {
            if field.data_type().is_numeric()
                && let Some(column) = self.lines.column_mut(place)
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        if self.options.named {
            let separator = if self.results > 0 { "\n" } else { "" };
            put(&mut self.sink, &format!("{separator}{name}\n"))?;
        }
        self.results += 1;
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Flow> {
        let left = self.options.rows_max.map_or(usize::MAX, |most| most - self.shown);
        for row in 0..batch.num_rows().min(left) {
            let mut cells = Vec::with_capacity(batch.num_columns());
            for (column, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
                let mut text = String::new();
                cells.push(match cell::write(column, field, row, &mut text)? {
                    Form::Null => "NULL".to_owned(),
                    _ => visible(&text, self.options.value_width_max),
                });
            }
            self.lines.add_row(cells);
            self.shown += 1;
        }
        Ok(if batch.num_rows() > left { Flow::Enough } else { Flow::More })
    }

    fn end(&mut self, whole: bool) -> Result<()> {
        let rows = if self.shown == 1 { "1 row".to_owned() } else { format!("{} rows", self.shown) };
        let note = match whole {
            true => rows,
            false => format!("the first {rows}; there are more: --rows N shows N, --format csv or json writes all"),
        };
        if self.lines.column_count() > 0 {
            put(&mut self.sink, &format!("{}\n", self.lines))?;
        }
        put(&mut self.sink, &format!("{note}\n"))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        flush(&mut self.sink)
    }
}

/// The text with control characters escaped, cut at `width` characters.
pub(super) fn visible(text: &str, width: usize) -> String {
    let mut out = String::new();
    for (place, character) in text.chars().enumerate() {
        if place + 1 > width {
            out.pop();
            out.push('…');
            break;
        }
        match character {
            control if control.is_control() || matches!(control, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.extend(control.escape_default());
            }
            other => out.push(other),
        }
    }
    out
}
