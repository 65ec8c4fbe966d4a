//! Refusals, TLS that does not come about, servers that die in the middle.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use portolan_model::{ErrorKind, Retry};
use portolan_testkit::proxy::Mode;
use portolan_testkit::servers::{FtpServer, PureFtpd, VsFtpd};

use crate::support::*;

const FILES: &str = "path = \"/out/*.csv\"";

fn tls(server: &FtpServer, more: &str) -> String {
    format!(
        "{FILES}\ntls = {{ ca = {:?}, server_name = \"localhost\"{more} }}",
        server.tls().authority.display().to_string()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_log_in_is_told_and_no_password_shown() {
    for server in servers() {
        let (ip, port) = (server.address().ip().to_string(), server.address().port());
        let keys = format!("user = \"{}\"\npassword = {{ literal = \"hunter2\" }}\n{FILES}", server.user);
        let error = failure(&mut open_at(&ip, port, &keys, Arc::default())).await;
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Permanent), "{error:?}");
        assert!(!format!("{error:?} {}", error.chain()).contains("hunter2"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_and_files_that_are_missing_or_closed_are_told_apart() {
    for server in servers() {
        for path in ["/nowhere/*.csv", "/out/missing.csv"] {
            let error = failure(&mut open(&server, &format!("path = \"{path}\""))).await;
            assert_eq!(error.kind(), ErrorKind::NotFound, "{path}: {error:?}");
        }
        server.write("closed/a.csv", "id\n1\n").unwrap();
        server.write("out/b.csv", "id\n1\n").unwrap();
        let close = |name: &str| std::fs::set_permissions(server.path(name), std::fs::Permissions::from_mode(0o600));
        close("closed").unwrap();
        close("out/b.csv").unwrap();
        for (path, named) in [("/closed/*.csv", "/closed"), (("/out/*.csv"), "/out/b.csv")] {
            let error = failure(&mut open(&server, &format!("path = \"{path}\""))).await;
            // vsftpd does not say which of the two it is.
            assert!(matches!(error.kind(), ErrorKind::Permission | ErrorKind::NotFound), "{path}: {error:?}");
            assert!(error.message().contains(named) && error.hint().unwrap().contains("ls -l"), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_the_server_cuts_short_is_not_taken_for_whole() {
    let server = PureFtpd::start_with(&["-L", "5:2"]).unwrap();
    for number in 0..20 {
        server.write(&format!("out/{number}.csv"), "id\n1\n").unwrap();
    }
    let error = failure(&mut open(&server, FILES)).await;
    assert!(error.kind() == ErrorKind::Limit && error.message().contains("part of /out"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_explicit_or_implicit_and_reuses_sessions() {
    let servers = [
        (PureFtpd::start().unwrap(), ""),
        (VsFtpd::start().unwrap(), ""),
        (VsFtpd::start_with(&["implicit_ssl=YES"]).unwrap(), "\nimplicit = true"),
    ];
    for (server, more) in servers {
        for number in 0..20 {
            server.write(&format!("out/{number}.csv"), format!("id\n{number}\n")).unwrap();
        }
        let mut source = open(&server, &format!("{}{more}", tls(&server, "")));
        for _ in 0..3 {
            // Each data connection takes a ticket: more than any server hands out at once.
            assert_eq!(read(&mut source, None).await.unwrap().0.rows().len(), 20);
        }
        let probe = source.probe().await.unwrap();
        assert!(probe.tls.as_deref().unwrap().starts_with("TLSv1.3 TLS13_"), "{probe:?}");
        // In plain text the first port waits for TLS and the others answer; an unknown authority is refused by all.
        let error =
            failure(&mut open(&server, &format!("{FILES}\ntls = {{ server_name = \"localhost\" }}{more}"))).await;
        assert!(error.kind() == ErrorKind::Tls && error.message().contains("authority"), "{error:?}");
        assert_eq!(error.hint().unwrap().contains("-starttls ftp"), more.is_empty(), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_tls_is_said() {
    let implicit = VsFtpd::start_with(&["implicit_ssl=YES"]).unwrap();
    for keys in [FILES.to_owned(), tls(&implicit, "")] {
        let error = failure(&mut open(&implicit, &format!("{keys}\nconnect_timeout = \"700ms\""))).await;
        assert!(error.kind() == ErrorKind::Timeout && error.hint().unwrap().contains("implicit"), "{error:?}");
    }
    let explicit = VsFtpd::start_with(&["force_anon_logins_ssl=YES"]).unwrap();
    let error = failure(&mut open(&explicit, FILES)).await;
    assert!(error.kind() == ErrorKind::Tls && error.hint().unwrap().contains("allow_plaintext"), "{error:?}");
    let error = failure(&mut open(&explicit, &format!("{}\nimplicit = true", tls(&explicit, "")))).await;
    assert!(error.kind() == ErrorKind::Protocol && error.message().contains("FTP"), "{error:?}");
    let without = PureFtpd::start_with(&["-Y", "0"]).unwrap();
    let error = failure(&mut open(&without, &tls(&without, ""))).await;
    assert!(error.kind() == ErrorKind::Tls && error.message().contains("AUTH TLS"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_named_and_allowed_with_a_reason() {
    let server = VsFtpd::start_with_tls12().unwrap();
    server.write("out/a.csv", "id\n1\n").unwrap();
    server.write("out/b.csv", "id\n2\n").unwrap();
    let error = failure(&mut open(&server, &tls(&server, ""))).await;
    assert!(error.kind() == ErrorKind::Tls && error.hint().unwrap().contains("allow_tls12"), "{error:?}");
    let mut source = open(&server, &tls(&server, ", allow_tls12 = \"old appliance\""));
    // It wants its session reused, too.
    assert_eq!(read(&mut source, None).await.unwrap().0.rows().len(), 2);
    assert!(source.probe().await.unwrap().tls.unwrap().starts_with("TLSv1.2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_passes_the_proxy_and_a_cut_in_it_is_no_end_of_file() {
    for server in servers() {
        let text: String = (0..40_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
        server.write("out/a.ndjson", &text).unwrap();
        let proxy = server.proxy().unwrap();
        let keys = as_user(&server, "path = \"/out/a.ndjson\"");
        let mut source = open_at("127.0.0.1", proxy.port(), &keys, Arc::default());
        let before = proxy.counts().bytes_from_server;
        let (output, _) = read(&mut source, None).await.unwrap();
        assert_eq!(output.rows().len(), 40_000);
        assert!(proxy.counts().bytes_from_server - before > text.len() as u64, "the data goes another way");
        // At the end of a line, so that nothing but the length tells.
        let cut = text.match_indices('\n').nth(20_000).unwrap().0 as u64 + 1;
        for mode in [Mode::CloseAfter(cut), Mode::ResetAfter(cut), Mode::CloseAfter(text.len() as u64 - 1)] {
            proxy.set(mode);
            let error = failure(&mut source).await;
            proxy.set(Mode::Pass);
            assert_eq!(
                (error.kind(), error.retry()),
                (ErrorKind::Disconnected, Retry::Transient),
                "{mode:?}: {error:?}"
            );
        }
        assert_eq!(read(&mut source, None).await.unwrap().0.rows().len(), 40_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_breaks_off_goes_on_behind_the_rows_it_has_given() {
    for server in servers() {
        let text: String = (0..400_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
        server.write("out/a.ndjson", &text).unwrap();
        let proxy = server.proxy().unwrap();
        for more in ["", "\nread = \"all\""] {
            let keys = as_user(&server, &format!("path = \"/out/a.ndjson\"{more}"));
            let mut source = open_at("127.0.0.1", proxy.port(), &keys, Arc::default());
            // Closed and not reset: what has come before a reset, and has not been read yet, is lost with it.
            for cut in [2_500_000, 3_000_001] {
                proxy.set(Mode::CloseAfter(cut));
                let before = proxy.counts().connections;
                let (output, end) = read(&mut source, None).await.unwrap();
                let ids = output.batches.iter().flat_map(|batch| {
                    batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
                });
                assert!(ids.eq(0..400_000), "{cut}");
                assert_eq!((output.payload.len(), output.quarantine.len(), end.more), (text.len(), 0, false));
                let connections = proxy.counts().connections - before;
                assert!(connections > 6, "nothing was cut: {connections} connections");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_times_out_and_a_killed_one_is_disconnected() {
    for mut server in servers() {
        server.write("out/a.csv", "id\n1\n").unwrap();
        let mut source = open(&server, &format!("{FILES}\nidle_timeout = \"500ms\"\nconnect_timeout = \"500ms\""));
        source.prepare().await.unwrap();
        server.pause().unwrap();
        let error = source.read(None, &mut Collected::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Transient), "{error:?}");
        server.resume().unwrap();
        source.prepare().await.unwrap();
        server.kill().unwrap();
        let error = source.read(None, &mut Collected::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Disconnected, Retry::Transient), "{error:?}");
        server.start_again().unwrap();
        assert_eq!(read(&mut source, None).await.unwrap().0.rows().len(), 1);
    }
}
