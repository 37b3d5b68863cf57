//! Certificates of a test, and servers that have them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use private_servers::{find_nats, free_port, spawn_tied};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use crate::{Servers, until};

/// A certificate authority, and a certificate of it for 127.0.0.1: files in the form PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The root.
    pub root: PathBuf,
    /// The certificate, of a server or of a client.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    folder: TempDir,
}

impl Certificates {
    /// Makes both.
    pub fn generate() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, pem: String| {
            let path = folder.path().join(name);
            fs::write(&path, pem).unwrap();
            path
        };
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate().unwrap();
        let root_certificate = root.self_signed(&root_key).unwrap();
        let issuer = Issuer::new(root, root_key);

        let mut own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        own.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = own.signed_by(&key, &issuer).unwrap();
        Self {
            root: file("root.pem", root_certificate.pem()),
            certificate: file("certificate.pem", certificate.pem()),
            key: file("key.pem", key.serialize_pem()),
            folder,
        }
    }
}

impl Servers {
    /// Has PostgreSQL accept TLS too, with this certificate.
    pub async fn switch_tls_on(&self, certificates: &Certificates) {
        let mut admin = self.admin().await;
        let data = sqlx::query_scalar("SELECT current_setting('data_directory')");
        let data: String = data.fetch_one(&mut admin).await.unwrap();
        give(&certificates.certificate, &data, "server.crt");
        give(&certificates.key, &data, "server.key");
        for statement in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            statement.execute(&mut admin).await.unwrap();
        }
        until("PostgreSQL has TLS", async || {
            let ssl = sqlx::query_scalar("SELECT current_setting('ssl')");
            ssl.fetch_one(&mut admin)
                .await
                .is_ok_and(|ssl: String| ssl == "on")
        })
        .await;
    }
}

/// Copies a file into a folder of the server, for the server alone.
fn give(file: &Path, folder: &str, name: &str) {
    let (copy, owner) = (Path::new(folder).join(name), fs::metadata(folder).unwrap());
    fs::copy(file, &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o600)).unwrap();
    chown(&copy, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// Starts a nats-server that talks TLS only, and only with clients that have a certificate of the
/// same authority. Returns it with its address; it ends with the test's process.
pub fn nats_with_tls(certificates: &Certificates) -> (Child, String) {
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let (root, certificate, key) = (
        &certificates.root,
        &certificates.certificate,
        &certificates.key,
    );
    let config = format!(
        "listen: {address}\n\
         tls {{ ca_file: {root:?}, cert_file: {certificate:?}, key_file: {key:?}, verify: true }}\n"
    );
    let path = certificates.folder.path().join("nats.conf");
    fs::write(&path, config).unwrap();
    let mut nats = Command::new(find_nats().unwrap().path);
    nats.arg("--config").arg(path);
    (spawn_tied(nats).unwrap(), address)
}
