//! A pooler in transaction mode before PostgreSQL, as small as it can be: all its clients share one
//! session with the server, a transaction at a time.

use std::{io, net::Ipv4Addr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinSet,
};

/// The session with the server, once the first client has logged in through it.
type Session = Arc<Mutex<Option<TcpStream>>>;

/// What a server says to a login that needs no password: done, and outside of any transaction.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// Starts a pooler before the PostgreSQL of `url`, and returns the URL that leads through it. It
/// ends with the runtime of the test.
pub async fn behind_transaction_pooler(url: &str) -> String {
    let after_host = url.split("127.0.0.1:").nth(1);
    let server = after_host.and_then(|rest| rest.split('/').next()).unwrap();
    let own = pooler(server.parse().unwrap()).await;
    url.replace(server, &own.to_string())
}

async fn pooler(server: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (session, mut clients) = (Session::default(), JoinSet::new());
        while let Ok((client, _)) = listener.accept().await {
            clients.spawn(serve(client, server, session.clone()));
        }
    });
    port
}

async fn serve(mut client: TcpStream, server: u16, session: Session) -> io::Result<()> {
    log_in(&mut client, server, &mut *session.lock().await).await?;
    loop {
        let (mut kind, mut message) = read(&mut client).await?;
        let mut session = session.lock().await;
        let server = session.as_mut().expect("a client has logged in");
        // To the end of the transaction.
        loop {
            if kind == b'X' {
                return Ok(());
            }
            server.write_all(&message).await?;
            if matches!(kind, b'Q' | b'S') && answer(server, &mut client).await? == b'I' {
                break;
            }
            (kind, message) = read(&mut client).await?;
        }
    }
}

/// The first client's login goes to the server, and every later one ends here.
async fn log_in(
    client: &mut TcpStream,
    port: u16,
    session: &mut Option<TcpStream>,
) -> io::Result<()> {
    let mut startup = vec![0; 4];
    client.read_exact(&mut startup).await?;
    read_rest(client, &mut startup).await?;
    if session.is_some() {
        return client.write_all(WELCOME).await;
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    server.write_all(&startup).await?;
    loop {
        let (kind, message) = read(&mut server).await?;
        client.write_all(&message).await?;
        match (kind, message.get(8)) {
            (b'Z', _) => break,
            // It asks for a password, or for the next step of its check (SASL).
            (b'R', Some(3 | 5 | 10 | 11)) => server.write_all(&read(client).await?.1).await?,
            _ => {}
        }
    }
    *session = Some(server);
    Ok(())
}

/// Passes on what the server answers; returns whether it is in a transaction then.
async fn answer(server: &mut TcpStream, client: &mut TcpStream) -> io::Result<u8> {
    loop {
        let (kind, message) = read(server).await?;
        client.write_all(&message).await?;
        if kind == b'Z' {
            return Ok(message[5]);
        }
    }
}

/// One message: its kind, and all of it.
async fn read(from: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await?;
    read_rest(from, &mut message).await?;
    Ok((message[0], message))
}

/// The rest of a message, of which the last four bytes so far are the length.
async fn read_rest(from: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    let head = message.len();
    let length = *message.last_chunk::<4>().expect("four bytes at least");
    let length = u32::from_be_bytes(length) as usize;
    message.resize(head + length - 4, 0);
    from.read_exact(&mut message[head..]).await.map(drop)
}
