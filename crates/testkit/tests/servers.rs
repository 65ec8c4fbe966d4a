//! The servers start, answer, survive a restart on the same ports, and are gone when dropped.

use std::net::TcpStream;
use std::process::Command;

use portolan_testkit::process::run;
use portolan_testkit::servers::{MariaDb, Nginx, NginxOptions, Redis, Reply};

#[test]
fn mariadb_answers_and_keeps_its_rows_over_a_kill() {
    let mut server = MariaDb::start().unwrap();
    server.sql("CREATE TABLE items (id INT PRIMARY KEY, name TEXT)").unwrap();
    let mut session = server.session().unwrap();
    session.execute("INSERT INTO items VALUES (1, 'é'), (2, NULL);").unwrap();
    assert_eq!(session.execute("SELECT * FROM items;").unwrap(), ["1\té", "2\tNULL"]);
    server.kill().unwrap();
    assert!(session.execute("SELECT 1;").is_err());
    server.start_again().unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM items").unwrap(), "2\n");
    server.restart().unwrap();
    assert_eq!(server.sql("SELECT sum(id) FROM items").unwrap(), "3\n");
    let port = server.port();
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn mariadb_speaks_tls_and_knows_its_users() {
    let server = MariaDb::start().unwrap();
    let tls = server.tls();
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=certified", "--ssl-verify-server-cert"])
        .arg(format!("--port={}", server.port()))
        .arg(format!("--ssl-ca={}", tls.authority.display()))
        .arg(format!("--ssl-cert={}", tls.client_certificate.display()))
        .arg(format!("--ssl-key={}", tls.client_key.display()))
        .args(["--batch", "--skip-column-names", "--execute", "SHOW STATUS LIKE 'Ssl_version'"]);
    assert_eq!(run(&mut command).unwrap(), "Ssl_version\tTLSv1.3\n");
}

#[test]
fn nginx_serves_files_over_each_port() {
    let mut server = Nginx::start(NginxOptions::default()).unwrap();
    server.write("list.json", "[1,2]").unwrap();
    let tls = server.tls().clone();
    let fetch = |arguments: &[&str], url: String| {
        run(Command::new("curl").args(["--silent", "--show-error", "--fail"]).args(arguments).arg(url))
    };
    let authority = tls.authority.display().to_string();
    let (certificate, key) = (tls.client_certificate.display().to_string(), tls.client_key.display().to_string());
    assert_eq!(fetch(&[], format!("http://127.0.0.1:{}/list.json", server.http_port())).unwrap(), "[1,2]");
    let secure = format!("https://127.0.0.1:{}/list.json", server.https_port());
    assert!(fetch(&[], secure.clone()).is_err(), "an unknown authority must be refused");
    let shown = fetch(&["--cacert", &authority, "--write-out", "%{http_version}"], secure).unwrap();
    assert_eq!(shown, "[1,2]2");
    let certified = format!("https://127.0.0.1:{}/list.json", server.certified_port());
    assert!(fetch(&["--cacert", &authority], certified.clone()).is_err());
    let with_certificate = ["--cacert", authority.as_str(), "--cert", certificate.as_str(), "--key", key.as_str()];
    assert_eq!(fetch(&with_certificate, certified).unwrap(), "[1,2]");
    server.kill().unwrap();
    server.start_again().unwrap();
    assert_eq!(fetch(&[], format!("http://127.0.0.1:{}/list.json", server.http_port())).unwrap(), "[1,2]");
}

#[test]
fn redis_answers_and_keeps_its_content_over_a_kill() {
    let mut server = Redis::start().unwrap();
    let mut session = server.session().unwrap();
    assert_eq!(session.run(&[b"SET", b"a key", "é".as_bytes()]).unwrap(), Reply::Text("OK".into()));
    server.command("XADD stream 1-1 field \"two words\"").unwrap();
    server.command("ACL SETUSER reader on >secret ~* +get").unwrap();
    server.kill().unwrap();
    assert!(session.run(&[b"PING"]).is_err());
    server.start_again().unwrap();
    assert_eq!(server.command("GET \"a key\"").unwrap(), Reply::Text("é".into()));
    assert!(server.command("GET").is_err());
    server.command("ACL SETUSER reader on >secret ~* +get").unwrap();
    server.restart().unwrap();
    let fields = Reply::List(vec![Reply::Text("field".into()), Reply::Text("two words".into())]);
    let entry = Reply::List(vec![Reply::Text("1-1".into()), fields]);
    assert_eq!(server.command("XRANGE stream - +").unwrap(), Reply::List(vec![entry]));
    assert!(server.command("ACL GETUSER reader").unwrap() != Reply::Null);
    assert_eq!(server.command("GET nothing").unwrap(), Reply::Null);
    let ports = [server.port(), server.tls_port()];
    drop(server);
    assert!(ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()));
}
