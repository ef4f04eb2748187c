//! The network behaviour that opens streams for requests and hands inbound streams to the [`Registry`].

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint, UpgradeInfo,
        transport::PortUse,
        upgrade::{InboundUpgrade, ReadyUpgrade},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::oneshot;

use super::server::Registry;

/// Requests that may wait for a stream on one connection.
const MAX_PENDING_OPENS: usize = 1024;

/// An open stream, or why there is none.
pub(crate) type Opened = Result<Stream, (OpenError, StreamProtocol)>;

#[derive(Debug)]
pub(crate) enum OpenError {
    NotConnected,
    Unsupported,
    Timeout,
    Busy { pending: usize },
    Io(io::Error),
}

/// A wish for a stream.
#[derive(Debug)]
pub(crate) struct OpenStream {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: oneshot::Sender<Opened>,
}

pub(crate) struct Behaviour {
    registry: Arc<Registry>,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    actions: VecDeque<(PeerId, NotifyHandler, FromBehaviour)>,
    waker: Option<Waker>,
}

/// What the behaviour tells a connection's handler.
#[derive(Debug)]
pub(crate) enum FromBehaviour {
    Open(OpenStream),
    /// The set of served protocols changed: look at it again, so that identify tells the peer.
    ProtocolsChanged,
}

impl Behaviour {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, connections: HashMap::new(), actions: VecDeque::new(), waker: None }
    }

    /// Asks for a stream to a connected peer. The reply comes through the channel in `open`; a dropped channel means
    /// that the connection is gone.
    pub(crate) fn open(&mut self, peer: PeerId, open: OpenStream) {
        // The oldest connection is the one that survives when both sides dialed at the same moment.
        let Some(connection) = self.connections.get(&peer).and_then(|all| all.first()) else {
            let _ = open.reply.send(Err((OpenError::NotConnected, open.protocol)));
            return;
        };
        self.push(peer, NotifyHandler::One(*connection), FromBehaviour::Open(open));
    }

    /// Tells every connection that the set of served protocols changed.
    pub(crate) fn protocols_changed(&mut self) {
        let all: Vec<_> = self.connections.iter().flat_map(|(peer, ids)| ids.iter().map(|id| (*peer, *id))).collect();
        for (peer, id) in all {
            self.push(peer, NotifyHandler::One(id), FromBehaviour::ProtocolsChanged);
        }
    }

    fn push(&mut self, peer: PeerId, handler: NotifyHandler, event: FromBehaviour) {
        self.actions.push_back((peer, handler, event));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler { peer, registry: self.registry.clone(), pending: VecDeque::new(), negotiating: 0, waker: None }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                self.connections.entry(e.peer_id).or_default().push(e.connection_id);
            }
            FromSwarm::ConnectionClosed(e) => {
                if let Some(ids) = self.connections.get_mut(&e.peer_id) {
                    ids.retain(|id| *id != e.connection_id);
                    if ids.is_empty() {
                        self.connections.remove(&e.peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, handler, event)) = self.actions.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

pub(crate) struct Handler {
    peer: PeerId,
    registry: Arc<Registry>,
    pending: VecDeque<OpenStream>,
    negotiating: usize,
    waker: Option<Waker>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = FromBehaviour;
    type ToBehaviour = Infallible;
    type InboundProtocol = Served;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenStream;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(Served { protocols: self.registry.protocols() }, ())
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            FromBehaviour::Open(open) => {
                let pending = self.pending.len() + self.negotiating;
                if pending >= MAX_PENDING_OPENS {
                    let _ = open.reply.send(Err((OpenError::Busy { pending }, open.protocol)));
                    return;
                }
                self.pending.push_back(open);
            }
            FromBehaviour::ProtocolsChanged => {}
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        while let Some(open) = self.pending.pop_front() {
            // Nobody waits for it any more.
            if open.reply.is_closed() {
                continue;
            }
            self.negotiating += 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(open.protocol.clone()), open),
            });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => self.registry.accept(self.peer, &protocol, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.negotiating = self.negotiating.saturating_sub(1);
                let _ = info.reply.send(Ok(protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.negotiating = self.negotiating.saturating_sub(1);
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::Timeout,
                    StreamUpgradeError::Apply(never) => match never {},
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(e) => OpenError::Io(e),
                };
                let _ = info.reply.send(Err((error, info.protocol)));
            }
            _ => {}
        }
    }
}

/// Accepts any of the protocols served at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    protocols: Arc<[StreamProtocol]>,
}

impl UpgradeInfo for Served {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        Vec::from(self.protocols.as_ref()).into_iter()
    }
}

impl InboundUpgrade<Stream> for Served {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Self::Info) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
