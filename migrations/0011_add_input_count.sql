-- Who lists finished turns alone must know where an unfinished one begins.
-- depends: 0005_create_replies

-- How many messages, right before the reply, were appended with it.
ALTER TABLE replies ADD COLUMN input_count integer NOT NULL DEFAULT 0;
