// A js-libp2p with GossipSub, driven over JSON lines; it lives until its stdin ends.
//
//   node peer.mjs SEED [OPTIONS]     SEED: 32 bytes in hex; OPTIONS: JSON, of GossipSub
//
// Each line of stdin is {"id", "do", ...}, answered by {"id", "ok"} or {"id", "error"}.  In between
// come events: {"event", ...}.  Bytes are hex.

import './node20.mjs'
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const unhex = (text) => Uint8Array.from(Buffer.from(text, 'hex'))
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')

const [seed, options = '{}'] = process.argv.slice(2)
const { topic, ...settings } = JSON.parse(options)
const node = await createLibp2p({
  privateKey: await generateKeyPairFromSeed('Ed25519', unhex(seed)),
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: gossipsub({
      // What was wrong is not forgotten meanwhile.  Not P3: a topic of a silent mesh is silent.
      scoreParams: {
        behaviourPenaltyDecay: 0.999,
        topics: {
          [topic]: {
            invalidMessageDeliveriesDecay: 0.999,
            meshMessageDeliveriesWeight: 0,
            meshFailurePenaltyWeight: 0
          }
        }
      },
      ...settings
    })
  }
})
const pubsub = node.services.pubsub

const tell = (target, name, fields) =>
  target.addEventListener(name, ({ detail }) => say({ event: name, ...fields(detail) }))
tell(node, 'peer:identify', (it) => ({
  peer: `${it.peerId}`,
  agent: it.agentVersion,
  protocols: it.protocols,
  addresses: it.listenAddrs.map(String)
}))
tell(node, 'peer:disconnect', (peer) => ({ peer: `${peer}` }))
tell(pubsub, 'subscription-change', (it) => ({
  peer: `${it.peerId}`,
  topics: it.subscriptions.filter((each) => each.subscribe).map((each) => each.topic)
}))
tell(pubsub, 'gossipsub:graft', (it) => ({ peer: it.peerId, topic: it.topic, by: it.direction }))
tell(pubsub, 'gossipsub:prune', (it) => ({ peer: it.peerId, topic: it.topic, by: it.direction }))
tell(pubsub, 'gossipsub:heartbeat', () => ({}))
tell(pubsub, 'message', (it) => ({
  type: it.type,
  from: `${it.from}`,
  topic: it.topic,
  data: hex(it.data)
}))

const commands = {
  dial: async ({ address }) => `${(await node.dial(multiaddr(address))).remotePeer}`,
  ping: async ({ peer }) => await node.services.ping.ping(peerIdFromString(peer)),
  subscribe: async ({ topic }) => pubsub.subscribe(topic) ?? null,
  publish: async ({ topic, data }) =>
    (await pubsub.publish(topic, unhex(data))).recipients.map(String),
  mesh: async ({ topic }) => pubsub.getMeshPeers(topic),
  score: async ({ peer }) => {
    const counted = pubsub.dumpPeerScoreStats()[peer]
    const topics = Object.values(counted?.topics ?? {})
    return {
      score: pubsub.getScore(peer),
      misdeeds: counted?.behaviourPenalty ?? null,
      invalid: topics.reduce((sum, each) => sum + each.invalidMessageDeliveries, 0)
    }
  }
}

say({
  event: 'ready',
  peer: `${node.peerId}`,
  agent: node.services.identify.host.agentVersion,
  addresses: node.getMultiaddrs().map(String)
})
for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: command, ...given } = JSON.parse(line)
  commands[command](given).then(
    (ok) => say({ id, ok }),
    (error) => say({ id, error: `${error}` })
  )
}
process.exit(0)
