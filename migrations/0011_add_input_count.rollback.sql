ALTER TABLE replies DROP COLUMN input_count;
