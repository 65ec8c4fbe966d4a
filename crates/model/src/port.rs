//! Port classes of RFC 6335 and service names of the IANA registry.
//!
//! The table holds the TCP services that servers with data commonly offer, named as registered in the IANA *Service
//! Name and Transport Protocol Port Number Registry*. A registered name says what a port is *meant* for; what really
//! answers is found by asking it.

use std::fmt;

/// The class of a port number (RFC 6335 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortClass {
    /// 0–1023: system ports, also called well-known.
    System,
    /// 1024–49151: user ports, also called registered.
    User,
    /// 49152–65535: dynamic ports, also called private or ephemeral; never registered.
    Dynamic,
}

impl PortClass {
    /// The class of a port.
    pub fn of(port: u16) -> Self {
        match port {
            0..=1023 => Self::System,
            1024..=49151 => Self::User,
            49152.. => Self::Dynamic,
        }
    }
}

impl fmt::Display for PortClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::System => "system",
            Self::User => "user",
            Self::Dynamic => "dynamic",
        })
    }
}

/// The service name that IANA has registered for a TCP port, if the table knows it.
pub fn service_name(port: u16) -> Option<&'static str> {
    SERVICES.binary_search_by_key(&port, |(number, _)| *number).ok().map(|index| SERVICES[index].1)
}

/// Registered TCP services, by port.
const SERVICES: &[(u16, &str)] = &[
    (7, "echo"),
    (9, "discard"),
    (13, "daytime"),
    (19, "chargen"),
    (20, "ftp-data"),
    (21, "ftp"),
    (22, "ssh"),
    (23, "telnet"),
    (25, "smtp"),
    (37, "time"),
    (43, "nicname"),
    (49, "tacacs"),
    (53, "domain"),
    (70, "gopher"),
    (79, "finger"),
    (80, "http"),
    (88, "kerberos"),
    (102, "iso-tsap"),
    (110, "pop3"),
    (111, "sunrpc"),
    (113, "ident"),
    (119, "nntp"),
    (123, "ntp"),
    (135, "epmap"),
    (139, "netbios-ssn"),
    (143, "imap"),
    (161, "snmp"),
    (162, "snmptrap"),
    (179, "bgp"),
    (194, "irc"),
    (389, "ldap"),
    (443, "https"),
    (445, "microsoft-ds"),
    (464, "kpasswd"),
    (465, "submissions"),
    (502, "mbap"),
    (513, "login"),
    (514, "shell"),
    (515, "printer"),
    (543, "klogin"),
    (548, "afpovertcp"),
    (554, "rtsp"),
    (563, "nntps"),
    (587, "submission"),
    (601, "syslog-conn"),
    (631, "ipp"),
    (636, "ldaps"),
    (666, "mdqs"),
    (802, "mbap-s"),
    (853, "domain-s"),
    (860, "iscsi"),
    (873, "rsync"),
    (989, "ftps-data"),
    (990, "ftps"),
    (992, "telnets"),
    (993, "imaps"),
    (995, "pop3s"),
    (1080, "socks"),
    (1194, "openvpn"),
    (1433, "ms-sql-s"),
    (1434, "ms-sql-m"),
    (1521, "ncube-lm"),
    (1701, "l2tp"),
    (1723, "pptp"),
    (1812, "radius"),
    (1883, "mqtt"),
    (1935, "macromedia-fcs"),
    (2049, "nfs"),
    (2181, "eforward"),
    (2375, "docker"),
    (2376, "docker-s"),
    (2379, "etcd-client"),
    (2380, "etcd-server"),
    (2404, "iec-104"),
    (2575, "hl7"),
    (2638, "sybaseanywhere"),
    (3000, "hbci"),
    (3001, "origo-native"),
    (3050, "gds-db"),
    (3128, "ndl-aas"),
    (3260, "iscsi-target"),
    (3306, "mysql"),
    (3389, "ms-wbt-server"),
    (3478, "stun"),
    (3690, "svn"),
    (4222, "nats"),
    (4369, "epmd"),
    (4840, "opcua-tcp"),
    (4843, "opcua-tls"),
    (5000, "commplex-main"),
    (5001, "commplex-link"),
    (5020, "zenginkyo-1"),
    (5060, "sip"),
    (5061, "sips"),
    (5222, "xmpp-client"),
    (5269, "xmpp-server"),
    (5432, "postgresql"),
    (5671, "amqps"),
    (5672, "amqp"),
    (5683, "coap"),
    (5684, "coaps"),
    (5900, "rfb"),
    (5984, "couchdb"),
    (5985, "wsman"),
    (5986, "wsmans"),
    (6379, "redis"),
    (6443, "sun-sr-https"),
    (6514, "syslog-tls"),
    (7000, "afs3-fileserver"),
    (7001, "afs3-callback"),
    (7777, "cbt"),
    (8000, "irdmi"),
    (8008, "http-alt"),
    (8080, "http-alt"),
    (8086, "d-s-n"),
    (8443, "pcsync-https"),
    (8883, "secure-mqtt"),
    (8888, "ddi-tcp-1"),
    (9000, "cslistener"),
    (9042, "cassandra-cql"),
    (9090, "websm"),
    (9092, "XmlIpcRegSvc"),
    (9100, "pdl-datastream"),
    (9200, "wap-wsp"),
    (9418, "git"),
    (9443, "tungsten-https"),
    (10050, "zabbix-agent"),
    (10051, "zabbix-trapper"),
    (11211, "memcache"),
    (20000, "dnp"),
    (27017, "mongodb"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_end_where_the_rfc_ends_them() {
        for (port, class) in [
            (0, PortClass::System),
            (1023, PortClass::System),
            (1024, PortClass::User),
            (49151, PortClass::User),
            (49152, PortClass::Dynamic),
            (65535, PortClass::Dynamic),
        ] {
            assert_eq!(PortClass::of(port), class, "{port}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_follows_rfc_6335_names() {
        assert!(SERVICES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (port, name) in SERVICES {
            assert_ne!(PortClass::of(*port), PortClass::Dynamic, "{name}");
            // RFC 6335 section 5.1: 1–15 characters, letters, digits, hyphens, at least one letter.
            assert!((1..=15).contains(&name.len()), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
            assert!(name.chars().any(|c| c.is_ascii_alphabetic()), "{name}");
        }
        assert_eq!(service_name(3306), Some("mysql"));
        assert_eq!(service_name(50_000), None);
    }
}
