//! A tunnel: after `101 Switching Protocols`, bytes pass both ways untouched.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::exchange::Exchange;
use crate::server::{ConnectionContext, Phase};

const BUFFER_BYTES: usize = 16 * 1024;

/// Joins the client's connection with the replica's until both have ended, or the gateway's
/// drain timeout is over. `context` counts the tunnel as a connection of the client's.
pub(crate) fn spawn_tunnel(
    client: OnUpgrade,
    replica: OnUpgrade,
    mut exchange: Exchange,
    context: Arc<ConnectionContext>,
) {
    tokio::spawn(async move {
        let mut phase = context.phase();
        let tunnel = async {
            let (client, replica) = tokio::try_join!(client, replica)
                .map_err(|error| std::io::Error::other(error.to_string()))?;
            tokio::io::copy_bidirectional_with_sizes(
                &mut TokioIo::new(client),
                &mut TokioIo::new(replica),
                BUFFER_BYTES,
                BUFFER_BYTES,
            )
            .await
        };
        tokio::select! {
            result = tunnel => match result {
                Ok((from_client, from_replica)) => {
                    exchange.received(from_client);
                    exchange.sent(from_replica);
                }
                Err(error) => exchange.failed(format!("the tunnel broke off: {error}")),
            },
            _ = phase.wait_for(|phase| *phase == Phase::Aborting) => {
                exchange.failed("the gateway stopped".to_owned());
            }
        }
        drop(context);
    });
}
