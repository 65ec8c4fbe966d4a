//! The sample HTTP API: `/api/metrics` on one port, `/api/orders` on another.
//!
//! What it shows follows from the time since its start alone: five machines with drifting values, and an order every
//! 40 ms with a rising id.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::process::KnownPorts;
use super::{MACHINES, Part};

/// Customers that the sample database holds; orders refer to them.
pub(super) const CUSTOMERS: u64 = 8;
/// The most orders in one answer.
const PAGE: u64 = 500;
const MILLISECONDS_AN_ORDER: u128 = 40;

/// The port numbers of the sample API, where they are free.
const METRICS_PORT: u16 = 3000;
const ORDERS_PORT: u16 = 3001;

/// Starts both ports on loopback. They end with the process. Who has the first has the right to the known ports.
pub(super) async fn start() -> anyhow::Result<(Vec<Part>, KnownPorts)> {
    let started = Arc::new(Instant::now());
    let metrics = Router::new().route("/api/metrics", get(metrics)).with_state(started.clone());
    let orders = Router::new().route("/api/orders", get(orders)).with_state(started);
    let metrics_port = serve(metrics, METRICS_PORT).await?;
    let orders_port = serve(orders, ORDERS_PORT).await?;
    let metrics = format!(
        r#"[[source]]
name = "metrics"
port = {metrics_port}
protocol = "http"
path = "/api/metrics"
tls = {{ allow_plaintext = "sample server on loopback" }}
"#
    );
    let orders = format!(
        r#"[[source]]
name = "orders"
port = {orders_port}
protocol = "http"
path = "/api/orders"
cursor = {{ parameter = "since", column = "id" }}
columns = {{ price = "decimal(12,2)" }}
tls = {{ allow_plaintext = "sample server on loopback" }}
"#
    );
    let parts = vec![Part::new("metrics", metrics, None), Part::new("orders", orders, None)];
    Ok((parts, KnownPorts(metrics_port == METRICS_PORT)))
}

async fn serve(router: Router, preferred_port: u16) -> anyhow::Result<u16> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = match bind(preferred_port).await {
        Ok(listener) => listener,
        Err(_) => bind(0).await.context("failed to listen on a loopback port for the sample server")?,
    };
    let port = listener.local_addr()?.port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(port)
}

async fn metrics(State(started): State<Arc<Instant>>) -> Json<Value> {
    let seconds = started.elapsed().as_secs_f64();
    let rows = MACHINES.iter().enumerate().map(|(index, machine)| {
        let phase = seconds / 3.0 + index as f64;
        json!({
            "machine": machine,
            "temperature": (2_000.0 + 150.0 * phase.sin() + 40.0 * index as f64).round() / 100.0,
            "load_percent": (50.0 + 45.0 * (phase * 1.7).cos()).round() as i64,
            "is_running": (phase * 0.7).sin() > -0.9,
        })
    });
    Json(rows.collect())
}

/// The query of `/api/orders`.
#[derive(Deserialize)]
struct OrdersQuery {
    /// Only orders with a larger id.
    #[serde(default)]
    since: u64,
}

async fn orders(State(started): State<Arc<Instant>>, Query(query): Query<OrdersQuery>) -> Json<Value> {
    let newest = (started.elapsed().as_millis() / MILLISECONDS_AN_ORDER) as u64;
    let rows = (query.since + 1..=newest).take(PAGE as usize).map(|id| {
        json!({
            "id": id,
            "customer_id": id * 7 % CUSTOMERS + 1,
            "machine": MACHINES[(id * 3 % MACHINES.len() as u64) as usize],
            "pieces": id * 13 % 40 + 1,
            "price": format!("{}.{:02}", id * 17 % 90 + 5, id * 31 % 100),
        })
    });
    Json(rows.collect())
}
