"""RabbitMQ: connections, the queues as data, confirmed publishing. The only room that imports pika."""
