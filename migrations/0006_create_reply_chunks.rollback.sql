DROP TABLE reply_chunks;
