//! PostgreSQL and NATS with certificates: which ones the process accepts, and what it says of
//! others.

use std::net::TcpStream;

use platform::nats::{self, NatsTls};
use private_servers::{free_port, spawn_tied};
use test_harness::{Certificates, Servers, nats_with_tls, until};

use crate::{
    process::{self, becomes_ready},
    schema::assert_refused,
    support::ROLE,
};

#[tokio::test]
async fn sslmode_and_root_decide_whom_it_trusts() {
    let (servers, certificates) = (Servers::start().await, Certificates::generate());
    servers.switch_tls_on(&certificates).await;
    let url = servers.database_url(ROLE);
    let with = |mode: &str| url.replace("sslmode=disable", &format!("sslmode={mode}"));
    let verify = |root: &str| with(&format!("verify-full&sslrootcert={root}"));
    let root = certificates.root.to_str().unwrap();

    for url in [with("require"), verify(root)] {
        let port = free_port().unwrap();
        let mut command = process::command();
        command
            .env("HTTP_ADDR", format!("127.0.0.1:{port}"))
            .env("GRPC_ADDR", "127.0.0.1:0")
            .env("NATS_URL", servers.nats.url())
            .env("DATABASE_URL", url);
        let mut service = spawn_tied(command).unwrap();
        becomes_ready(port).await;
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE usename = $1 AND NOT ssl";
        let plain = sqlx::query_scalar(plain).bind(ROLE);
        let plain: i64 = plain.fetch_one(&mut servers.admin().await).await.unwrap();
        assert_eq!(plain, 0, "connections without TLS");
        service.kill().unwrap();
        service.wait().unwrap();
    }

    let other = Certificates::generate();
    for (url, refusal) in [
        (
            verify(other.root.to_str().unwrap()),
            "invalid peer certificate",
        ),
        (with("verify-full"), "invalid peer certificate"),
        (
            verify(root).replace("127.0.0.1", "localhost"),
            "not valid for name",
        ),
        (verify("/no/such.pem"), "/no/such.pem cannot be read"),
    ] {
        let mut service = process::command();
        service.env("DATABASE_URL", url);
        assert_refused(service, refusal);
    }
}

#[tokio::test]
async fn nats_and_client_show_their_certificates() {
    let (servers, certificates) = (Servers::start().await, Certificates::generate());
    let (mut server, address) = nats_with_tls(&certificates);
    until("NATS listens", async || {
        TcpStream::connect(&address).is_ok()
    })
    .await;
    let url = format!("tls://{address}");
    let mutual = NatsTls {
        nats_ca: Some(certificates.root.clone()),
        nats_cert: Some(certificates.certificate.clone()),
        nats_key: Some(certificates.key.clone()),
    };
    let client = nats::connect(&url, "a test", &mutual).await.unwrap();
    until("there is a connection with TLS", async || {
        nats::health_check(&client).is_ok()
    })
    .await;
    client.flush().await.unwrap();

    let other = Certificates::generate();
    let refused = "the connection to NATS is refused";
    for (roots, refusal) in [
        (&certificates.root, refused),
        (&other.root, refused),
        (&"/no/such.pem".into(), "/no/such.pem of NATS_CA"),
    ] {
        let mut service = process::command();
        service
            .env("DATABASE_URL", servers.database_url(ROLE))
            .env("NATS_URL", &url)
            .env("NATS_CA", roots);
        assert_refused(service, refusal);
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
