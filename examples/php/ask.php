<?php
// One request and its answer: composer install, then RABBITMQ_URL=amqp://… php ask.php "your prompt"
declare(strict_types=1);

require (getenv('COMPOSER_VENDOR_DIR') ?: __DIR__ . '/vendor') . '/autoload.php';

use PhpAmqpLib\Connection\AMQPConnectionConfig;
use PhpAmqpLib\Connection\AMQPConnectionFactory;
use PhpAmqpLib\Exception\AMQPTimeoutException;
use PhpAmqpLib\Message\AMQPMessage;

const REQUESTS = 'gemini.requests';
const REPLY_TO = 'amq.rabbitmq.reply-to'; // https://www.rabbitmq.com/docs/direct-reply-to
const TIMEOUT_S = 60;

function connect(string $url): PhpAmqpLib\Connection\AbstractConnection
{
    $parts = parse_url($url);
    $config = new AMQPConnectionConfig();
    $config->setHost($parts['host']);
    $config->setPort($parts['port'] ?? 5672);
    $config->setUser(rawurldecode($parts['user'] ?? 'guest'));
    $config->setPassword(rawurldecode($parts['pass'] ?? 'guest'));
    $config->setVhost(rawurldecode(ltrim($parts['path'] ?? '', '/')) ?: '/');
    return AMQPConnectionFactory::create($config);
}

function fail(string $text): never
{
    fwrite(STDERR, "$text\n");
    exit(1);
}

$connection = connect(getenv('RABBITMQ_URL') ?: 'amqp://guest:guest@localhost:5672/');
$channel = $connection->channel();
$channel->confirm_select();
$channel->set_return_listener(fn () => fail('The queue ' . REQUESTS . ' does not exist: start a worker, which declares it'));

$requestId = bin2hex(random_bytes(16));
$envelope = null;
$receive = function (AMQPMessage $message) use ($requestId, &$envelope): void {
    if ($message->get('correlation_id') !== $requestId) {
        return;
    }
    $told = json_decode($message->getBody(), true, flags: JSON_THROW_ON_ERROR);
    if (($message->get_properties()['type'] ?? '') === 'gemini.delta') {
        fwrite(STDERR, $told['text']); // a piece, while the model speaks
    } else {
        $envelope = $told;
    }
};
$channel->basic_consume(REPLY_TO, '', false, true, false, false, $receive);

$request = ['request_id' => $requestId, 'prompt' => $argv[1] ?? 'What is a message queue?',
    'expires_in_s' => TIMEOUT_S, 'stream' => true];
$properties = ['content_type' => 'application/json', 'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
    'reply_to' => REPLY_TO, 'correlation_id' => $requestId, 'timestamp' => time()];
$channel->basic_publish(new AMQPMessage(json_encode($request), $properties), '', REQUESTS, true);
$channel->wait_for_pending_acks_returns(30);

$deadline = microtime(true) + TIMEOUT_S;
while ($envelope === null) {
    try {
        $channel->wait(null, false, max(0.001, $deadline - microtime(true)));
    } catch (AMQPTimeoutException) {
        fail('no answer within ' . TIMEOUT_S . ' s');
    }
}
if ($envelope['status'] === 'error') {
    fail("{$envelope['error_code']}: {$envelope['error']}");
}
echo $envelope['content'], "\n";
$connection->close();
