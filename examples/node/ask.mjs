// One request and its answer: npm install, then RABBITMQ_URL=amqp://… node ask.mjs "your prompt"
import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';

const REQUESTS = 'gemini.requests';
const REPLY_TO = 'amq.rabbitmq.reply-to'; // https://www.rabbitmq.com/docs/direct-reply-to
const TIMEOUT_S = 60;

const connection = await amqp.connect(process.env.RABBITMQ_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
channel.on('return', () => fail(`The queue ${REQUESTS} does not exist: start a worker, which declares it`));

const requestId = randomUUID();
const answered = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`no answer within ${TIMEOUT_S} s`)), TIMEOUT_S * 1000).unref();
  channel.consume(REPLY_TO, (message) => receive(message, resolve), { noAck: true });
});

function receive(message, resolve) {
  if (message.properties.correlationId !== requestId) return;
  const told = JSON.parse(message.content);
  if (message.properties.type === 'gemini.delta') process.stderr.write(told.text); // a piece, while the model speaks
  else resolve(told);
}

const request = { request_id: requestId, prompt: process.argv[2] ?? 'What is a message queue?',
  expires_in_s: TIMEOUT_S, stream: true };
channel.sendToQueue(REQUESTS, Buffer.from(JSON.stringify(request)), {
  contentType: 'application/json', persistent: true, mandatory: true,
  replyTo: REPLY_TO, correlationId: requestId, timestamp: Math.floor(Date.now() / 1000),
});
await channel.waitForConfirms();

const envelope = await answered;
if (envelope.status === 'error') await fail(`${envelope.error_code}: ${envelope.error}`);
console.log(envelope.content);
await connection.close();

async function fail(text) {
  console.error(text);
  await connection.close();
  process.exit(1);
}
