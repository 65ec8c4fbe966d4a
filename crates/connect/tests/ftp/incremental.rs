//! Files that grow, change, shrink, go and come back.

use std::sync::Arc;

use portolan_model::ErrorKind;
use serde_json::json;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_line_is_held_back_until_it_ends() {
    for server in servers() {
        server.write("out/a.csv", "id,name\n1,a\n2,\"two\nlines\"\n3,").unwrap();
        let mut source = open(&server, "path = \"/out/*.csv\"");
        let mut position = None;
        let output = read_on(&mut source, &mut position).await;
        assert_eq!(output.texts("name"), ["a", "two\nlines"]);
        assert_eq!(output.texts("_file"), ["/out/a.csv", "/out/a.csv"]);
        assert_eq!(output.payload, b"id,name\n1,a\n2,\"two\nlines\"\n");
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 0);
        // Still none: the line end is within quotes.
        server.append("out/a.csv", "\"x\ny").unwrap();
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 0);
        server.append("out/a.csv", "\"\n4,d\n5").unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!(
            (output.texts("id"), output.texts("name")),
            (vec!["3".into(), "4".into()], vec!["x\ny".into(), "d".into()])
        );
        assert!(output.quarantine.is_empty(), "{:?}", output.quarantine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_read_on_behind_a_verified_prefix() {
    let line = |id: usize| format!("{id},\"{}\n{}\"\n", "x".repeat(40), id % 7);
    for server in servers() {
        let mut text = "id,value\n".to_owned();
        (0..80_000).for_each(|id| text.push_str(&line(id)));
        assert!(text.len() > 3 << 20);
        server.write("out/a.csv", &text).unwrap();
        let mut source = open(&server, "path = \"/out/a.csv\"\ncolumns = { id = \"bigint\" }");
        let mut position = None;
        let output = read_on(&mut source, &mut position).await;
        assert!(output.batches.len() > 3, "{} parts", output.batches.len());
        assert_eq!(output.payload, text.as_bytes());
        for step in 0..3 {
            let ids = 80_000 + step * 10..80_010 + step * 10;
            server.append("out/a.csv", ids.clone().map(line).collect::<String>()).unwrap();
            let output = read_on(&mut source, &mut position).await;
            let found: Vec<_> = output.rows().iter().map(|row| row["id"].as_u64().unwrap() as usize).collect();
            assert_eq!((found, output.quarantine.len()), (ids.collect(), 0));
        }
        // Another file of the same name, larger: other at its start alone, then other at its end alone.
        for (from, to) in [("id,value\n0,", "id,value\n7,"), ("80029,\"", "80028,\"")] {
            let text = std::fs::read_to_string(server.path("out/a.csv")).unwrap().replacen(from, to, 1) + &line(9);
            server.write("out/a.csv", &text).unwrap();
            let output = read_on(&mut source, &mut position).await;
            assert_eq!(output.reasons(), ["file_replaced"]);
            assert_eq!(output.payload.len(), text.len());
            assert_eq!(output.quarantine[0].row, json!({ "file": "/out/a.csv" }));
        }
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_and_shrunk_files_are_read_again_and_said() {
    for server in servers() {
        let mut source = open(&server, "path = \"/out/*.ndjson\"");
        let mut position = None;
        server.write("out/a.ndjson", "{\"v\":1}\n{\"v\":2}\n").unwrap();
        server.touch("out/a.ndjson", 1_600_000_000).unwrap();
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 2);
        // The same bytes with another time: nothing.
        server.touch("out/a.ndjson", 1_600_000_100).unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows().len(), output.reasons().len()), (0, 0));
        // Other bytes of the same length with another time.
        server.write("out/a.ndjson", "{\"v\":3}\n{\"v\":4}\n").unwrap();
        server.touch("out/a.ndjson", 1_600_000_200).unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows()[0]["v"].as_i64(), output.reasons()), (Some(3), vec!["file_replaced"]));
        // Shorter.
        server.write("out/a.ndjson", "{\"v\":5}\n").unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows()[0]["v"].as_i64(), output.reasons()), (Some(5), vec!["file_shrunk"]));
        // A rotated log: the old lines under another name are another file.
        std::fs::rename(server.path("out/a.ndjson"), server.path("out/b.ndjson")).unwrap();
        server.write("out/a.ndjson", "{\"v\":6}\n{\"v\":7}\n").unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows().len(), output.reasons()), (3, vec!["file_replaced"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_do_not_grow_are_read_to_their_last_byte() {
    for server in servers() {
        let mut source = open(&server, "path = \"/out/*.csv\"\ngrowing = false");
        let mut position = None;
        server.write("out/a.csv", "id\n1\n2").unwrap();
        assert_eq!(read_on(&mut source, &mut position).await.texts("id"), ["1", "2"]);
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 0);
        server.append("out/a.csv", "3\n").unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.texts("id"), output.reasons()), (vec!["1".into(), "23".into()], vec!["file_replaced"]));
        // It does begin with what was read.
        assert!(!output.quarantine[0].detail.contains("begin"), "{:?}", output.quarantine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_files_are_read_to_their_last_byte_each_time() {
    for server in servers() {
        server.write("out/a.csv", "id\n1\n2").unwrap();
        server.write("out/b.csv", "id\n3\n").unwrap();
        let mut source = open(&server, "path = \"/out/*.csv\"\nmode = \"replace\"");
        assert!(!source.capabilities().resume);
        for _ in 0..2 {
            let (output, end) = read(&mut source, None).await.unwrap();
            assert_eq!((output.texts("id"), output.quarantine.len()), (vec!["1".into(), "2".into(), "3".into()], 0));
            assert_eq!(end, Default::default());
        }
        let mut source = open(&server, "path = \"/out/*.csv\"\nread = \"all\"\ngrowing = true");
        assert_eq!(read(&mut source, None).await.unwrap().0.texts("id"), ["1", "3"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_raw_files_are_read_whole_and_once() {
    for server in servers() {
        let mut position = None;
        let mut source = open(&server, "path = \"/out/*\"\nrows = \"$.data[*]\"");
        server.write("out/a.json", "{\"data\":[{\"v\":1},{\"v\":2}]}").unwrap();
        server.write("out/empty.json", "").unwrap();
        server.touch("out/a.json", 1_600_000_000).unwrap();
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 2);
        server.touch("out/a.json", 1_600_000_100).unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows().len(), output.reasons().len()), (0, 0));
        server.write("out/a.json", "{\"data\":[{\"v\":3}]}").unwrap();
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows().len(), output.reasons()), (1, vec!["file_replaced"]));
        server.write("out/a.json", "{\"data\":[").unwrap();
        let error = failure(&mut source).await;
        assert!(error.kind() == ErrorKind::Data && error.message().contains("/out/a.json"), "{error:?}");
        server.write("out/notes.txt", "x").unwrap();
        let error = failure(&mut source).await;
        assert!(error.kind() == ErrorKind::Data && error.hint().unwrap().contains("format"), "{error:?}");

        server.clear().unwrap();
        server.write("out/\u{e9} 1.bin", [0, 255, 10]).unwrap();
        let mut source = open(&server, "path = \"/out/*\"\nformat = \"raw\"\nfile_column = \"path\"");
        let (output, _) = read(&mut source, None).await.unwrap();
        assert_eq!(output.texts("path"), ["/out/\u{e9} 1.bin"]);
        let content = output.batches[0].column_by_name("content").unwrap();
        assert_eq!(arrow::array::AsArray::as_binary::<i32>(content).value(0), [0, 255, 10]);
        assert_eq!(output.payload, [0, 255, 10]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_go_are_forgotten_after_a_day() {
    for server in servers() {
        let clock = Arc::<SetClock>::default();
        let mut source = open_with_clock(&server, "path = \"/out/*.csv\"", clock.clone());
        let mut position = None;
        server.write("out/a.csv", "id\n1\n").unwrap();
        server.touch("out/a.csv", 1_600_000_000).unwrap();
        server.write("out/b.csv", "id\n2\n").unwrap();
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 2);
        let known = |position: &Option<portolan_model::Position>| {
            position.as_ref().unwrap().value["files"].as_object().unwrap().len()
        };
        // Gone for an hour, as with a disk that is not mounted, and back: not read again.
        let (away, back) = (server.path("a.away"), server.path("out/a.csv"));
        std::fs::rename(&back, &away).unwrap();
        assert_eq!((read_on(&mut source, &mut position).await.rows().len(), known(&position)), (0, 2));
        clock.set(3_600);
        std::fs::rename(&away, &back).unwrap();
        assert_eq!((read_on(&mut source, &mut position).await.rows().len(), known(&position)), (0, 2));
        std::fs::rename(&back, &away).unwrap();
        read_on(&mut source, &mut position).await;
        clock.set(3_601 + 86_400);
        assert_eq!((read_on(&mut source, &mut position).await.rows().len(), known(&position)), (0, 1));
        std::fs::rename(&away, &back).unwrap();
        assert_eq!((read_on(&mut source, &mut position).await.rows().len(), known(&position)), (1, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_never_ends_is_said_once() {
    for server in servers() {
        let clock = Arc::<SetClock>::default();
        let mut source = open_with_clock(&server, "path = \"/out/*.csv\"", clock.clone());
        let mut position = None;
        server.write("out/a.csv", "id\n1\n2").unwrap();
        for (seconds, expected) in [(0, 0), (599, 0), (600, 1), (1_300, 0)] {
            clock.set(seconds);
            let output = read_on(&mut source, &mut position).await;
            assert_eq!(output.quarantine.len(), expected, "after {seconds} s: {:?}", output.quarantine);
            assert!(output.reasons().iter().all(|reason| *reason == "line_unfinished"));
        }
        server.append("out/a.csv", "\n").unwrap();
        assert_eq!(read_on(&mut source, &mut position).await.texts("id"), ["2"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_asked_to_end_goes_round_the_files() {
    for server in servers() {
        let mut source = open(&server, "path = \"/out/*.csv\"");
        for name in ["a", "b", "c"] {
            server.write(&format!("out/{name}.csv"), format!("id\n{name}1\n")).unwrap();
        }
        let mut position = None;
        let mut seen = Vec::new();
        for step in 0..3 {
            source.prepare().await.unwrap();
            let mut output = Collected { has_enough: true, ..Collected::default() };
            let end = source.read(position.as_ref(), &mut output).await.unwrap();
            assert!(end.more);
            position = end.position;
            seen.extend(output.texts("id"));
            // One that always grows keeps no other waiting.
            server.append("out/a.csv", format!("a{}\n", step + 2)).unwrap();
        }
        assert_eq!(seen, ["a1", "b1", "c1"], "each file has had its turn");
        assert_eq!(read_on(&mut source, &mut position).await.texts("id"), ["a2", "a3", "a4"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_read_in_parts_that_are_the_whole() {
    let mut text = "id,value\n".to_owned();
    (0..60_000).for_each(|id| text.push_str(&format!("{id},\"{}\n\"\n", "y".repeat(30))));
    // Without a line end at its end.
    text.push_str("60000,z");
    for server in servers() {
        for is_growing in [true, false] {
            server.write("out/a.csv", &text).unwrap();
            let keys = format!("path = \"/out/a.csv\"\ncolumns = {{ id = \"bigint\" }}\ngrowing = {is_growing}");
            let (mut position, mut ids, mut payload, mut reads) = (None, Vec::new(), Vec::new(), 0);
            loop {
                // Each part by another process.
                let mut source = open(&server, &keys);
                let mut output = Collected { has_enough: true, ..Collected::default() };
                let end = source.read(position.as_ref(), &mut output).await.unwrap();
                ids.extend(output.rows().iter().map(|row| row["id"].as_i64().unwrap()));
                payload.extend(output.payload);
                assert!(output.quarantine.is_empty() && end.position != position);
                position = end.position;
                reads += 1;
                if !end.more {
                    break;
                }
            }
            let rows = if is_growing { 60_000 } else { 60_001 };
            assert_eq!(ids, (0..rows).collect::<Vec<_>>());
            let held = if is_growing { "60000,z".len() } else { 0 };
            assert_eq!(payload, &text.as_bytes()[..text.len() - held]);
            assert!(reads > 5, "{reads} reads");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_walked_by_the_pattern() {
    for server in servers() {
        for name in ["out/a.csv", "out/.hidden.csv", "out/x/b.csv", "out/x/y/c.csv", "out/x y/d.csv", "out/x/a.txt"] {
            server.write(name, format!("id\n{}\n", name.rsplit('/').next().unwrap())).unwrap();
        }
        for (path, expected) in [
            ("/out/*.csv", vec!["a.csv"]),
            ("/out/*/*.csv", vec!["d.csv", "b.csv"]),
            ("/out/**/*.csv", vec!["a.csv", "d.csv", "b.csv", "c.csv"]),
            ("/out/**/y/*.csv", vec!["c.csv"]),
            ("/out/x y/d.csv", vec!["d.csv"]),
            ("/*/x/[a-c].csv", vec!["b.csv"]),
            ("/out/*.tsv", vec![]),
        ] {
            let mut source = open(&server, &format!("path = \"{path}\"\nread = \"all\""));
            let (output, end) = read(&mut source, None).await.unwrap();
            assert_eq!(output.texts("id"), expected, "{path}");
            assert_eq!(end.position, None);
        }
        let error = failure(&mut open(&server, "path = \"/out/**/*.csv\"\nmax_files = 3")).await;
        assert_eq!(error.kind(), ErrorKind::Limit);
        let probe = open(&server, "path = \"/out/**/*.csv\"").probe().await.unwrap();
        assert!(probe.facts.contains(&("files".into(), "4".into())), "{probe:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_read_where_they_lead_to_a_file() {
    for server in servers() {
        server.write("out/a.csv", "id\n1\n").unwrap();
        server.write("out/folder.csv/b.csv", "id\n2\n").unwrap();
        for (to, name) in [("a.csv", "link.csv"), ("nowhere.csv", "broken.csv"), ("folder.csv", "away.csv")] {
            std::os::unix::fs::symlink(to, server.path("out").join(name)).unwrap();
        }
        let mut source = open(&server, "path = \"/out/*.csv\"");
        let (output, _) = read(&mut source, None).await.unwrap();
        assert_eq!(output.texts("_file"), ["/out/a.csv", "/out/link.csv"]);
        assert_eq!(output.texts("id"), ["1", "1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_behind_a_mark_or_ended_by_a_carriage_return_are_headers_alone() {
    for server in servers() {
        for (start, column) in [("\u{feff}\"Amount\n(EUR)\",x\n", "Amount\n(EUR)"), ("amount,x\r", "amount")] {
            server.clear().unwrap();
            let mut text = start.to_owned();
            (0..120_000).for_each(|id| text.push_str(&format!("{id},\"some text\"\n")));
            server.write("out/a.csv", &text).unwrap();
            let mut source = open(&server, "path = \"/out/a.csv\"");
            let mut position = None;
            let output = read_on(&mut source, &mut position).await;
            assert!(output.texts(column).into_iter().eq((0..120_000).map(|id| id.to_string())), "{start:?}");
            server.append("out/a.csv", "-1,\n").unwrap();
            assert_eq!(read_on(&mut source, &mut position).await.texts(column), ["-1"], "{start:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_before_a_file_that_fails_is_stored() {
    // One that fails before it gives rows, and one that fails behind them.
    let late = format!("[{}{{", "{\"id\":\"x\"},".repeat(200_000));
    for bad in ["[{", &late] {
        for server in servers() {
            server.write("out/a.csv", "id\n1\n").unwrap();
            server.write("out/b.csv", "id\n2\n").unwrap();
            server.write("out/c.json", bad).unwrap();
            server.write("out/d.csv", "id\n4\n").unwrap();
            let mut source = open(&server, "path = \"/out/*\"");
            let (mut position, mut ids, mut errors) = (None, Vec::new(), 0);
            for _ in 0..4 {
                source.prepare().await.unwrap();
                let mut output = Collected::default();
                match source.read(position.as_ref(), &mut output).await {
                    Ok(end) => {
                        assert!(end.more && output.quarantine.is_empty());
                        ids.extend(output.texts("id"));
                        position = end.position;
                    }
                    Err(error) => {
                        assert!(error.kind() == ErrorKind::Data && error.message().contains("c.json"), "{error:?}");
                        errors += 1;
                    }
                }
            }
            assert_eq!((ids, errors), (vec!["1".into(), "2".into()], 3), "{} bytes", bad.len());
            // Mended, it and what is behind it follow.
            server.write("out/c.json", "[{\"id\":\"3\"}]").unwrap();
            assert_eq!(read_on(&mut source, &mut position).await.texts("id"), ["3", "4"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_became_shorter_is_read_again() {
    for server in servers() {
        let text: String = (0..30_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
        server.write("out/a.ndjson", &text).unwrap();
        let mut source = open(&server, "path = \"/out/a.ndjson\"");
        let mut position = None;
        assert_eq!(read_on(&mut source, &mut position).await.rows().len(), 30_000);
        // To less than what is verified, then to what ends before the last bytes that are, then to what ends within them.
        for lines in [10, 8_000, 29_000] {
            let shorter: String = text.split_inclusive('\n').take(lines).collect();
            server.write("out/a.ndjson", &shorter).unwrap();
            let output = read_on(&mut source, &mut position).await;
            assert_eq!((output.rows().len(), output.reasons()), (lines, vec!["file_shrunk"]));
            server.write("out/a.ndjson", &text).unwrap();
            read_on(&mut source, &mut position).await;
        }
    }
}
