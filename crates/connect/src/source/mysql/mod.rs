//! MySQL and MariaDB: tables and queries as rows.
